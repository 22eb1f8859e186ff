"""Completions that were cut off have no last number, in evaluation and in training; golds are linted."""

from dgpo.lab.evaluation.problems import Problem, ProblemSet
from dgpo.lab.evaluation.run import gold_lint
from dgpo.lab.rewards.math import MathReward

PROBLEM = Problem("one", "1 + 2 = ?", "3")


def test_an_evaluation_takes_no_last_number_of_what_was_cut_off():
    score = ProblemSet("sums", (PROBLEM,)).scorer("auto")
    texts = ["so it is 3", "so it is 3", "\\boxed{3} and then"]
    found = score([PROBLEM] * 3, texts, [False, True, True])
    assert [one.outcome for one in found] == ["correct", "unparseable", "correct"]


def test_training_knows_by_the_longest_length():
    reward = MathReward().with_length(4)
    ids = [[5, 6, 1], [5, 6, 7, 8]]
    assert reward(["so it is 3", "so it is 3"], ["3", "3"], completion_ids=ids) == [1.0, 0.0]
    assert MathReward()(["so it is 3", "so it is 3"], ["3", "3"], completion_ids=ids) == [1.0, 1.0]
    assert (reward.__name__, reward.answer_format) == ("math", "auto")


def test_golds_of_an_evaluation_are_linted():
    golds = ["7", "2,4,\\ldots,2n"]
    lint = gold_lint(ProblemSet("sums", tuple(Problem(gold, "?", gold) for gold in golds)), "boxed")
    assert lint.unreadable == (golds[1],)
    assert gold_lint(ProblemSet("forks", (PROBLEM,), reward=lambda **_: [0.0]), "boxed") is None
