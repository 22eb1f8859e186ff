"""Tables for the trackers: what a row says, and in which order rows come."""

import pytest

from dgpo.credit_log import trackers


class Board:
    """TensorBoard's writer, as far as it is used."""

    def __init__(self):
        self.texts, self.histograms = [], []

    def add_text(self, name, text, step):
        self.texts.append((name, text, step))

    def add_histogram(self, name, values, step):
        self.histograms.append((name, list(values), step))


@pytest.fixture
def board():
    import numpy  # noqa: F401  the histogram needs it; TensorBoard has it loaded

    return Board()


def rows_of(board):
    _, text, _ = board.texts[0]
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_completions_of_a_prompt_come_together(board, completion):
    made = [
        completion(f"c{n}", group=group, answer="42", hint="is 42", control="is 7", hint_agreement=0.5, ended="eos")
        for n, group in enumerate((1, 2, 1))
    ]
    trackers.send_tables(7, made, trackers=(), boards=[board])
    rows = rows_of(board)
    assert [row["completion"] for row in rows] == ["c0", "c2", "c1"]
    told = ("group", "answer", "hint", "control", "hint_agreement", "ended", "step")
    assert [rows[0][name] for name in told] == ["1", "42", "is 42", "is 7", "0.5", "eos", "7"]


def test_completions_without_a_group_keep_their_order(board, completion):
    trackers.send_tables(1, [completion("b"), completion("a")], trackers=(), boards=[board])
    assert [row["completion"] for row in rows_of(board)] == ["b", "a"]


def test_a_signed_rule_sends_token_advantages(board, completion):
    made = completion("a", "b", "c", w=[None] * 3, a=[0.5, -2.0, None])
    trackers.send_tables(1, [made], trackers=(), boards=[board])
    assert board.histograms == [("dgpo/weights", [0.5, -2.0], 1)]
    assert trackers._row(1, made)["most_credited"] == "'b' -2.00, 'a' 0.50"


def test_of_even_weights_none_are_listed(completion):
    """As of a trainer that is watched: its weights are GRPO's."""
    row = trackers._row(1, completion("a", "b", w=[1.0, 1.0]))
    assert (row["weight_max"], row["most_credited"]) == (1.0, "")


def test_a_long_completion_keeps_its_end(completion):
    long = completion(*("ab" * 3000), num_tokens=9000, head=3000)
    text = trackers._row(1, long)["completion"]
    assert len(text) < 2100
    assert text.startswith("ab")
    assert text.endswith("ab")
    short = completion("a", "b", num_tokens=5, head=1)
    assert trackers._row(1, short)["completion"] == "a [3 tokens left out] b"
