"""`dgpo report` on damaged runs: what is intact is drawn, what is not is named, and nothing raises."""

import gzip
import json
import re
import sys

import pytest

from dgpo.credit_log import CreditLog
from dgpo.lab.cli.main import main

DAMAGE = {
    "bytes that are no UTF-8": b'{"step": 2, "reward": "\xff\xfe"}',
    "half a line": b'{"step": 2, "rew',
    "a block of NUL bytes": b"\x00" * 64,
    "a list where a mapping should be": b"[1, 2]",
    "deep nesting": b"[" * 100_000,
    "an odd step": b'{"step": "two", "reward": 1}',
    "a step beyond all": b'{"step": 1e999, "reward": 1}',
}
FILES = ("metrics.jsonl", "summary.json", "environment.json", "recipe.yaml")


@pytest.fixture
def run(tmp_path, settings, completion):
    folder = tmp_path / "run"
    CreditLog(folder, settings).write(1, [completion("a"), completion("b")])
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 3, "reward": 0.75}\n')
    (folder / "summary.json").write_text('{"steps": 3, "train_seconds": 1.0}')
    (folder / "environment.json").write_text('{"versions": {"torch": "2"}}')
    (folder / "recipe.yaml").write_text("task: forks\n")
    return folder


def page_of(run):
    assert main(["report", str(run)]) == 0
    (block,) = re.findall(r'id="data">(.*?)</script>', (run / "report.html").read_text(), re.DOTALL)
    return json.loads(block)["runs"][0]


def test_an_intact_run_has_no_notes(run):
    assert page_of(run)["notes"] == []


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_lines_of_metrics_are_left_out(run, damage):
    first, last = (run / "metrics.jsonl").read_bytes().splitlines()
    (run / "metrics.jsonl").write_bytes(b"\n".join([first, damage, last]))
    page = page_of(run)
    assert page["curves"]["reward"] == [[1, 0.5], [3, 0.75]]
    assert page["notes"] == ["metrics.jsonl is damaged: 1 of its lines cannot be read and are left out."]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"\x00" * 64, b"[1, 2]", b'{"a": [1'], ids=repr)
def test_whole_files_are_left_out(run, name, damage):
    (run / name).write_bytes(damage)
    page = page_of(run)
    assert any(name in note for note in page["notes"])
    assert len(page["credit"][0]["groups"][0]["completions"]) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", {"held_out_accuracy": [1], "steps": {}}),
        ("summary.json", {"held_out_accuracy": {"before": {"mean": "much"}}}),
        ("summary.json", {"train_seconds": "long"}),
        ("environment.json", {"versions": [1]}),
    ],
)
def test_values_of_a_wrong_kind_are_left_out(run, name, content):
    (run / name).write_text(json.dumps(content))
    assert f"{name} is damaged and left out." in page_of(run)["notes"]


def test_odd_numbers_are_no_points(run):
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "reward": 1e999, "loss": ' + "9" * 400 + ', "kl": NaN, "entropy": true, "grad_norm": 2}\n'
    )
    assert page_of(run)["curves"] == {"grad_norm": [[1, 2.0]]}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_completions_are_left_out(run, damage):
    path = run / "credit" / "step-000001.jsonl.gz"
    header, first, _ = gzip.decompress(path.read_bytes()).splitlines()
    path.write_bytes(gzip.compress(b"\n".join([header, damage, first]), mtime=0))
    page = page_of(run)
    (group,) = page["credit"][0]["groups"]
    assert [c["tokens"] for c in group["completions"]] == [["a"]]
    assert any("step-000001.jsonl.gz is damaged" in note for note in page["notes"])


# Within what Python parses, beyond what its recursion limit leaves for the rest; from 3.12 on, beyond what it parses.
DEPTH = 900 if sys.version_info < (3, 12) else 100_000
DEEP = b"[" * DEPTH + b"]" * DEPTH


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no gzip"),
        *(gzip.compress(header, mtime=0) for header in (b"", b"\xff", b"[1]")),
        gzip.compress(b'{"schema": "dgpo-credit/2", "rule": "even", "options": {}, "trainer": %s}' % DEEP, mtime=0),
    ],
    ids=["empty", "no gzip", "no line", "no UTF-8", "no mapping", "nested too deeply"],
)
def test_a_log_without_an_intact_file_leaves_the_curves(run, content):
    (run / "credit" / "step-000001.jsonl.gz").write_bytes(content)
    page = page_of(run)
    assert page["credit"] == []
    assert "reward" in page["curves"]
    assert any("step-000001.jsonl.gz is left out" in note for note in page["notes"])
