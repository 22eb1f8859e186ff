"""The credit log: what is written comes back; nothing half-written is read; nothing it does stops a run."""

import errno
import gzip
import itertools
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgpo.credit_log import CompletionCredit, CreditLog, read_credit_log
from dgpo.errors import DataError


def steps_of(run):
    return [logged.step for logged in read_credit_log(run)]


def test_what_is_written_comes_back(tmp_path, settings, completion):
    alternatives = {1: {"policy": [("b", 0.75), ("c", 0.125)], "reference": [("c", 0.5)]}}
    written = completion("a", "🙂", "", "</script>\u2028", "\x00", "\ud800", alternatives=alternatives)
    CreditLog(tmp_path, settings).write(120, [written, completion("b")], out_of=128)
    (step,) = read_credit_log(tmp_path)
    assert step.step == 120
    assert step.header == {
        "schema": "dgpo-credit/2",
        "step": 120,
        "rule": "dgpo",
        "options": {"tau": 0.5, "kappa": 1.0},
        "source": "",
        "vocab_size": 50,
        "engine": "trl",
        "credit_policy": "current",
        "temperature": 1.0,
        "trainer": {},
        "dgpo": step.header["dgpo"],
        "every": 20,
        "completions": 2,
        "out_of": 128,
        "max_tokens": 4096,
    }
    first, second = step.completions
    assert first.tokens == written.tokens
    assert second.tokens == ["b"]
    assert first.w == pytest.approx(written.w, rel=5e-5)  # five digits
    assert first.effective_share == pytest.approx(written.effective_share, rel=5e-5)
    assert first.alternatives[1]["policy"] == [["b", 0.75], ["c", 0.125]]
    assert [path.name for path in (tmp_path / "credit").iterdir()] == ["step-000120.jsonl.gz"]


def test_numbers_that_json_does_not_know_become_null(tmp_path, settings, completion):
    CreditLog(tmp_path, settings).write(1, [completion("a", "b", logp=[-math.inf, math.nan], reward=math.nan)])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert read.logp == [None, None]
    assert read.reward is None


def test_small_figures_keep_their_digits(tmp_path, settings, completion):
    CreditLog(tmp_path, settings).write(1, [completion("a", w=[1.00012], d=[1.234567e-9])])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert read.w == [1.0001]
    assert read.d == [1.2346e-9]


def test_the_effective_share_is_of_all_tokens_however_few_are_kept(tmp_path, settings, completion):
    # (1 + 1 + 4)^2 / (1 + 1 + 16) / 3 = 36 / 54; the untrained token counts for nothing
    whole = completion("a", "b", "c", "d", w=[1.0, None, 1.0, 4.0], alternatives={0: {}, 3: {}})
    CreditLog(tmp_path, settings, max_tokens=3).write(1, [whole])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert (read.tokens, read.w, read.num_tokens) == (["a", "b", "d"], [1.0, None, 4.0], 4)
    assert (read.head, read.omitted) == (2, 1)
    assert read.effective_share == pytest.approx(36 / 54, rel=1e-4)
    assert list(read.alternatives) == [0, 2]


def test_only_so_many_completions_are_kept(tmp_path, settings, completion):
    CreditLog(tmp_path, settings, max_completions=2).write(1, [completion("a")] * 5, out_of=5)
    (step,) = read_credit_log(tmp_path)
    assert len(step.completions) == step.header["completions"] == 2


def test_lists_of_different_lengths_are_refused(completion):
    with pytest.raises(ValueError, match="one entry a token"):
        completion("a", "b", w=[1.0])


@pytest.mark.parametrize(
    ("resumed_at", "every", "given", "logged"),
    [
        (0, 3, range(1, 11), [1, 3, 6, 9]),
        (4, 3, range(5, 11), [6, 9]),
        (6, 3, range(7, 11), [9]),
        (0, 1, range(1, 4), [1, 2, 3]),
        # Credit is given at every fourth step only: the first one after a step was due is logged.
        (0, 3, range(1, 20, 4), [1, 5, 9, 13, 17]),
        (0, 5, range(1, 20, 4), [1, 5, 13, 17]),
    ],
)
def test_which_steps_are_logged(tmp_path, settings, resumed_at, every, given, logged):
    log = CreditLog(tmp_path, settings, every=every)
    log.start(resumed_at)
    for step in given:
        if log.is_due(step):
            log.write(step, [])
    assert steps_of(tmp_path) == logged


def test_a_resumed_run_forgets_the_steps_it_makes_again(tmp_path, settings):
    log = CreditLog(tmp_path, settings, every=10)
    for step in (1, 10, 20, 30):
        log.write(step, [])
    (tmp_path / "credit" / "step-000040.jsonl.gz.tmp").write_bytes(b"killed while writing")
    CreditLog(tmp_path, settings, every=10).start(20)
    assert sorted(path.name for path in (tmp_path / "credit").iterdir()) == [
        "step-000001.jsonl.gz",
        "step-000010.jsonl.gz",
        "step-000020.jsonl.gz",
    ]


def test_a_new_run_in_the_same_directory_moves_the_old_log_aside(tmp_path, settings, caplog):
    for _ in range(3):
        log = CreditLog(tmp_path, settings)
        log.start(0)
        log.write(1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["credit", "credit.1", "credit.2"]
    assert "is now credit.1" in caplog.text


def test_above_its_size_the_log_still_covers_the_run(tmp_path, settings, completion, caplog):
    rng = random.Random(0)

    def some():
        return completion(*(rng.choice("abcdefgh") for _ in range(200)), w=[rng.random() for _ in range(200)])

    log = CreditLog(tmp_path, settings, every=1, max_bytes=60_000)
    for step in range(1, 101):
        log.write(step, [some()])
    logged = steps_of(tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "credit").iterdir())
    assert 15_000 < size <= 60_000
    assert logged[-1] == 100
    assert logged[0] <= log.every
    assert max(b - a for a, b in itertools.pairwise(logged)) <= 2 * log.every
    assert "every second logged step was deleted" in caplog.text
    resumed = CreditLog(tmp_path, settings, every=1)
    resumed.start(100)
    assert resumed.every == log.every > 1


def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path, settings, completion, monkeypatch, caplog):
    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = CreditLog(tmp_path, settings, every=1)
    assert log.write(1, [completion("a")]) is not None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_disk)
        assert [log.write(step, [completion("a")]) for step in (2, 3)] == [None, None]
    assert caplog.text.count("No space left on device") == 1
    assert log.write(4, [completion("a")]) is not None
    assert steps_of(tmp_path) == [1, 4]
    assert not list((tmp_path / "credit").glob("*.tmp"))


def test_a_directory_that_cannot_be_made_stops_nothing(tmp_path, settings, caplog):
    (tmp_path / "run").write_text("a file in the way")
    log = CreditLog(tmp_path / "run", settings)
    log.start(0)
    assert log.write(1, []) is None
    assert "the training goes on" in caplog.text


def test_damaged_files_are_left_out_with_a_warning(tmp_path, settings, completion, caplog):
    log = CreditLog(tmp_path, settings, every=1)
    whole = log.write(1, [completion(*"abc" * 50)]).read_bytes()
    folder = tmp_path / "credit"
    (folder / "step-000002.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "step-000003.jsonl.gz").write_bytes(b"no gzip")
    (folder / "step-000004.jsonl.gz").write_bytes(gzip.compress(b'{"schema": "dgpo-credit/1"}\n{"prompt": 1}\n'))
    (folder / "step-000005.jsonl.gz").write_bytes(gzip.compress(b""))
    (folder / "notes.txt").write_text("not ours")
    assert steps_of(tmp_path) == [1]
    assert all(f"step-00000{step}" in caplog.text for step in (2, 3, 4, 5))


def test_another_schema_is_refused_by_name(tmp_path):
    (tmp_path / "credit").mkdir()
    header = json.dumps({"schema": "dgpo-credit/9", "dgpo": "9.0"}).encode()
    (tmp_path / "credit" / "step-000001.jsonl.gz").write_bytes(gzip.compress(header + b"\n"))
    with pytest.raises(DataError, match=r"dgpo-credit/9.*wrote it \(9\.0\)"):
        read_credit_log(tmp_path)


def test_a_run_without_a_log_has_no_steps(tmp_path):
    assert read_credit_log(tmp_path) == []


def test_the_log_needs_no_engine():
    code = "import sys, dgpo.credit_log; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"torch", "trl", "transformers", "verl", "ray", "jinja2", "matplotlib", "yaml"} == set()


def test_a_completion_without_credit_has_no_effective_share():
    nothing = CompletionCredit("", [1], ["a"], [None], [0.0], [0.0], [0.0], [0.0], [0.0])
    assert nothing.effective_share is None


def test_the_documented_fields_are_those_that_are_written(tmp_path, settings, completion):
    page = (Path(__file__).parents[2] / "docs" / "credit-log.md").read_text()
    sections = page.split("\n## ")
    whole = completion("a", a=[0.5], hint="a", control="b", hint_agreement=0.5)
    lines = gzip.decompress(CreditLog(tmp_path, settings).write(1, [whole]).read_bytes()).splitlines()
    for section, line in zip(sections[1:3], lines, strict=True):
        rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
        assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(json.loads(line)), section
