"""A completion of the log: its lists, the tokens of a long one, older logs and damaged ones."""

import gzip
import json

import pytest
import torch

from dgpo.core import HINDSIGHT_STATS
from dgpo.credit_log import (
    CompletionCredit,
    CreditLog,
    collect_completion,
    read_credit_log,
    reason_it_ended,
    rows_of_whole_groups,
)


class Letters:
    def decode(self, ids, **options):
        return "".join(chr(97 + index) for index in ids)


def collect(per_token, count=3, **options):
    options = {"vocab_size": 26, "prompt": "p"} | options
    return collect_completion(Letters(), torch.arange(count), per_token, **options)


def test_a_rule_without_a_reference_leaves_out_what_it_does_not_have(tmp_path, settings):
    written = collect({"weights": torch.ones(3), "entropy": torch.zeros(3), "logps": -torch.ones(3)})
    path = CreditLog(tmp_path, settings).write(1, [written])
    row = json.loads(gzip.decompress(path.read_bytes()).splitlines()[1])
    assert not {"a", "d", "s", "log_ratio"} & row.keys()
    (read,) = read_credit_log(tmp_path)[0].completions
    assert (read.w, read.h, read.logp) == ([1.0] * 3, [0.0] * 3, [-1.0] * 3)
    assert read.d == read.s == read.log_ratio == read.a == [None] * 3


def test_a_signed_rule_logs_token_advantages_in_place_of_weights(tmp_path, settings):
    values = {"token_advantages": torch.tensor([1.0, -2.0, 9.0]), "entropy": torch.zeros(3), "logps": torch.zeros(3)}
    written = collect(values, trained=torch.tensor([True, True, False]))
    CreditLog(tmp_path, settings).write(1, [written])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert read.a == [1.0, -2.0, None]
    assert read.w == [None] * 3
    assert read.effective_share == pytest.approx(0.9)  # of the sizes: 3^2 / 5 / 2


def test_further_columns_come_back_under_their_names(tmp_path, settings):
    values = {"weights": torch.ones(3), "surprise": torch.tensor([1.0, 2.0, torch.nan])}
    CreditLog(tmp_path, settings).write(1, [collect(values)])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert read.columns == {"surprise": [1.0, 2.0, None]}


def test_a_hint_comes_back_and_without_one_there_are_no_numbers_of_it(tmp_path, settings):
    """A log of a rule that reads no hint is what it was: earlier versions read it."""
    values = {"weights": torch.ones(3)} | {name: torch.ones(3) for name in HINDSIGHT_STATS}
    told = {"hint": "42", "control": "7", "hint_agreement": 0.25}
    hinted = [collect(values, **facts) for facts in (told, {"hint": "", "hint_agreement": torch.nan})]
    path = CreditLog(tmp_path, settings).write(1, [*hinted, collect({"weights": torch.ones(3)})])
    told, untold, plain = read_credit_log(tmp_path)[0].completions
    assert (told.hint, untold.hint, plain.hint) == ("42", "", None)
    assert (told.control, untold.control, plain.control) == ("7", None, None)
    assert (told.hint_agreement, untold.hint_agreement, plain.hint_agreement) == (0.25, None, None)
    assert told.columns == {name: [1.0] * 3 for name in HINDSIGHT_STATS}
    assert untold.columns == {}
    assert {"hint", "control", "hint_agreement"}.isdisjoint(
        json.loads(gzip.decompress(path.read_bytes()).splitlines()[3])
    )


def test_what_is_known_of_the_prompt_and_the_end_comes_back(tmp_path, settings):
    facts = {"answer": "42", "group": 3, "ended": "length"}
    CreditLog(tmp_path, settings).write(1, [collect({"weights": torch.ones(3)}, **facts)])
    (read,) = read_credit_log(tmp_path)[0].completions
    assert (read.answer, read.group, read.ended, read.truncated) == ("42", 3, "length", True)


def test_a_long_completion_keeps_its_first_and_last_tokens():
    tops = {index: {"policy": [(index, 1.0)]} for index in (0, 3, 9)}
    long = collect({"weights": torch.arange(10.0)}, 10, alternatives=tops, max_tokens=5)
    assert (long.tokens, long.w) == (list("abcij"), [0.0, 1.0, 2.0, 8.0, 9.0])
    assert (long.head, long.omitted, long.num_tokens) == (3, 5, 10)
    assert long.alternatives == {0: {"policy": [("a", 1.0)]}, 4: {"policy": [("j", 1.0)]}}
    assert long.effective_share == pytest.approx(45**2 / 285 / 10)  # of all tokens
    shorter = long.shortened(2)
    assert (shorter.tokens, shorter.head, shorter.omitted) == (["a", "j"], 1, 8)
    assert shorter.alternatives == {0: {"policy": [("a", 1.0)]}, 1: {"policy": [("j", 1.0)]}}
    assert shorter.effective_share == long.effective_share


def test_a_completion_of_which_only_the_beginning_is_known_keeps_that():
    beginning = CompletionCredit("", list(range(6)), list("abcdef"), num_tokens=100)
    assert beginning.shortened(4).tokens == list("abcd")
    assert beginning.shortened(4).omitted == 96


def test_a_log_of_the_first_schema_is_read(tmp_path):
    header = {"schema": "dgpo-credit/1", "step": 7, "tau": 0.1, "kappa": 2.0, "vocab_size": 9, "every": 20}
    numbers = {name: [0.5] for name in ("w", "d", "h", "s", "logp", "log_ratio")}
    row = {"prompt": "p", "ids": [1], "tokens": ["a"], **numbers, "truncated": True, "num_tokens": 3}
    (tmp_path / "credit").mkdir()
    lines = "\n".join(map(json.dumps, (header, row)))
    (tmp_path / "credit" / "step-000007.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (step,) = read_credit_log(tmp_path)
    assert (step.header["rule"], step.header["options"]) == ("dgpo", {"tau": 0.1, "kappa": 2.0})
    (read,) = step.completions
    assert (read.w, read.a, read.truncated, read.head, read.omitted) == ([0.5], [None], True, 1, 2)


DAMAGE = {
    "bytes that are no UTF-8": b'{"prompt": "\xff\xfe"}',
    "half a line": b'{"prompt": "a", "ids": [1',
    "a block of NUL bytes": b"\x00" * 64,
    "a list where a mapping should be": b"[1, 2]",
    "text where a number should be": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "w": ["x"]}',
    "a mapping in a list": b'{"prompt": "p", "ids": [1], "tokens": [{}]}',
    "a list as rewards": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "rewards": [1]}',
    "fewer tokens than ids": b'{"prompt": "p", "ids": [1, 2], "tokens": ["a"]}',
    "a head beyond its tokens": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "head": 5}',
    "odd alternatives": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "alternatives": {"0": {"policy": [1]}}}',
    "alternatives of no token": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "alternatives": {"1": {}}}',
    "a whole number beyond all floats": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "reward": 1%s}' % (b"0" * 400),
    "a reward beyond all floats": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "rewards": {"f": 1%s}}' % (b"0" * 400),
    "a value nested too deeply": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "group": %s}'
    % (b"[" * 900 + b"]" * 900),
    "an unknown field": b'{"prompt": "p", "ids": [1], "tokens": ["a"], "odd": 1}',
}


@pytest.mark.parametrize("line", DAMAGE.values(), ids=DAMAGE)
def test_what_is_intact_of_a_damaged_file_is_read(tmp_path, settings, completion, caplog, line):
    path = CreditLog(tmp_path, settings).write(1, [completion("a"), completion("b")])
    header, first, second = gzip.decompress(path.read_bytes()).splitlines()
    path.write_bytes(gzip.compress(b"\n".join([header, first, line, second])))
    (step,) = read_credit_log(tmp_path)
    assert [read.tokens for read in step.completions] == [["a"], ["b"]]
    assert "step-000001.jsonl.gz is damaged" in caplog.text


def test_a_number_beyond_all_floats_is_no_number(tmp_path, settings, completion):
    path = CreditLog(tmp_path, settings).write(1, [completion("a")])
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace('"reward":1.0', '"reward":1e999').encode()))
    assert read_credit_log(tmp_path)[0].completions[0].reward is None


def test_a_file_that_ends_in_the_middle_is_read_up_to_there(tmp_path, settings, completion, caplog):
    # Letters in no order do not compress: the first completion lies in the first half of the file.
    random = torch.Generator().manual_seed(0)
    tokens = [chr(97 + index) for index in torch.randint(26, (30_000,), generator=random)]
    path = CreditLog(tmp_path, settings, max_tokens=20_000).write(
        1, [completion(*tokens[:10_000]), completion(*tokens[10_000:])]
    )
    path.write_bytes(path.read_bytes()[:-20_000])
    (step,) = read_credit_log(tmp_path)
    assert [len(read.ids) for read in step.completions] == [10_000]
    assert "is damaged; 1 of its completions" in caplog.text


def test_any_of_the_end_tokens_ends_a_completion():
    assert [reason_it_ended([5, last], eos_ids=(1, 2)) for last in (1, 2, 3)] == ["eos", "eos", "length"]
    assert reason_it_ended([], eos_ids=(1,)) == "length"


@pytest.mark.parametrize(
    ("count", "rows"),
    [(2, [1, 4]), (5, [1, 4]), (6, [1, 4, 0, 2, 3, 5]), (1, [1]), (0, [])],
)
def test_whole_groups_are_logged_those_with_a_signal_first(count, rows):
    # Prompt 7 has four completions without a signal, prompt 9 two with one.
    assert rows_of_whole_groups([7, 9, 7, 7, 9, 7], [0.0, 1.0, 0.0, 0.0, -1.0, 0.0], count) == rows
