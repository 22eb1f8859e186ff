"""Gold answers are checked when data are loaded."""

import json

import pytest

from dgpo.lab.rewards import lint_golds


def test_gold_answers_in_order_are_not_reported(pool):
    golds = ["7", "-6.", "1/2", "x=3", "18 cups", "35\\%", "1011_3", "(1,2)", "\\{1,2\\}", "x=1,y=2", "B", "Maria",
             "2.4e-5", "12{,}345", "y=2x+1", "\\frac{14}{3}", "[0,\\infty)", "90^\\circ", "\\$36", "3:2"]  # fmt: skip
    lint = lint_golds(golds, pool=pool)
    assert lint.ok, str(lint)
    assert str(lint) == "of 20 different gold answers, all are in order"


@pytest.mark.parametrize("gold", ["", "$", "2,4,\\ldots,2n", "\\frac{1}{", "x = \\begin{cases} 1 \\end{cases}"])
def test_gold_answers_that_cannot_be_read_are_counted(pool, gold):
    lint = lint_golds(["7", gold, gold], pool=pool)
    assert (lint.total, lint.unreadable, lint.ok) == (2, (gold,), False)
    assert "1 cannot be read and give no score" in str(lint)


def test_gold_answers_that_do_not_fit_the_format_are_counted(pool):
    lint = lint_golds(["7", "x+1"], "last_number", pool=pool)
    assert lint.unequal == ("x+1",)
    assert "1 do not score 1 when a completion repeats them (such as 'x+1')" in str(lint)


def test_a_gold_answer_that_accepts_a_fragment_is_reported(pool, monkeypatch):
    """With the parser in order no gold answer is known to; a verifier that says so is believed."""
    check = type(pool).check
    monkeypatch.setattr(type(pool), "check", lambda self, asked: [
        verdict._replace(outcome="correct", value="2") if question.answer == "2" else verdict
        for question, verdict in zip(asked, check(self, asked), strict=True)
    ])  # fmt: skip
    lint = lint_golds(["\\{x \\mid x \\ge 2\\}"], pool=pool)
    assert lint.partial == (("\\{x \\mid x \\ge 2\\}", "2"),)
    assert "accept a fragment of themselves" in str(lint)


def test_loading_data_says_which_gold_answers_cannot_be_read(tmp_path):
    from dgpo.lab.tasks import load_task

    rows = [{"prompt": str(n), "answer": str(n)} for n in range(8)] + [{"prompt": "n", "answer": "2,4,\\ldots,2n"}]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(path), eval_size=1, rewards=["math_boxed"])
    assert "math_boxed: of 9 different gold answers, 1 cannot be read and give no score" in task.description
    assert "cannot be read" not in load_task(str(path), eval_size=1, rewards=["exact_match"]).description
