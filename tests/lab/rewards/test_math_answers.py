"""Which answers are equal, and where in a completion the answer is found: tables, case by case."""

import json
import re
from pathlib import Path

import pytest

from dgpo.errors import RewardError
from dgpo.lab.rewards import extract_answer
from dgpo.lab.rewards.extraction import FORMATS, MAX_ANSWER_CHARS, answer_formats, last_boxed
from dgpo.lab.rewards.math import MathReward

# (the model's answer, the gold answer)
EQUAL = [
    ("34", "34"),
    ("034", "34"),  # AIME's answers have three digits
    ("34.0", "34"),
    ("1,234", "1234"),
    ("1{,}234", "1234"),
    ("1 234", "1234"),
    ("1e5", "100000"),
    ("-\\frac{1}{2}", "-0.5"),
    ("−3", "-3"),  # the minus of typeset mathematics
    ("1/2", "0.5"),
    ("0.5", "\\frac{1}{2}"),
    ("\\dfrac{2}{4}", "1/2"),
    ("\\tfrac12", "0.5"),
    ("3\\frac{1}{2}", "3.5"),
    ("0.333333", "1/3"),  # six digits are compared
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("2^{10}", "1024"),
    ("2**10", "1024"),
    ("5!", "120"),
    ("\\log_2 8", "3"),
    ("3\\times 10^5", "300000"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("1+2i", "2i+1"),
    # expressions, and equations, of which the right-hand side counts
    ("(x+1)^2", "x^2+2x+1"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("y=2x+1", "2x+1"),
    # percentages: the sign may be left out on either side
    ("50\\%", "50"),
    ("50%", "0.5"),
    ("50", "50\\%"),
    # units and currencies
    ("42\\text{ cm}", "42"),
    ("42 cm", "42"),
    ("42", "42 \\text{ cm}"),
    ("\\$5", "5"),
    # words after a number, which LaTeX would multiply letter by letter
    ("18 dollars", "18"),
    ("18 cups of flour.", "18"),
    ("1,234 people", "1234"),
    ("-5 degrees Celsius", "-5"),
    ("18 km/h", "18"),
    ("$18 USD", "18"),
    ("1/2 cup", "0.5"),
    ("3 abc", "3abc"),
    ("3 and 4", "\\{3, 4\\}"),
    ("12^\\circ", "12"),
    # tuples and intervals keep their order, sets do not
    ("(1, 2)", "(1,2)"),
    ("[1,2]", "[1,2]"),
    ("(-\\infty,3]", "(-\\infty, 3]"),
    ("x\\in[1,2]", "[1,2]"),
    ("(0,1)\\cup(2,3)", "(2,3)\\cup(0,1)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("1,2", "2,1"),
    ("1 \\text{ and } 2", "1,2"),
    ("\\pm 2", "\\{2,-2\\}"),
    ("\\emptyset", "\\emptyset"),
    ("\\infty", "\\infty"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    # letters and words
    ("\\text{A}", "A"),
    ("A", "\\text{(A)}"),
    ("a", "A"),
    ("\\text{east}", "\\text{east}"),
    # what cannot be compared as mathematics is equal to itself
    ("12:00", "12:00"),
    # digits of other scripts
    ("٣٤", "34"),
    ("３４", "34"),
]
DIFFERENT = [
    ("35", "34"),
    ("-34", "34"),
    ("1000000007", "1000000008"),
    ("1.00001", "1"),
    ("0.33", "1/3"),
    ("3.14", "\\pi"),
    ("x^2+2x+2", "(x+1)^2"),
    ("(2,1)", "(1,2)"),
    ("(1,2]", "[1,2]"),
    ("\\begin{pmatrix}2\\\\1\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\text{west}", "\\text{east}"),
    ("nan", "3"),
    ("\\infty", "3"),
    ("\\frac{1}{0}", "3"),
    ("3 or 4", "3"),
    ("18 dollars", "17"),
    ("18 million", "18"),
    ("2 sqrt 2", "2"),
    ("2 log 3", "2"),
    ("2 theta", "2"),
    ("2 thirds", "2"),
    ("3 plus x", "3"),
    ("18 x/y", "18"),
    ("3 xyz", "3"),
    ("three", "3"),
    ("\\text{no solution}", "0"),
]


KINDS = [json.loads(line) for line in Path(__file__).with_name("math_answers.jsonl").read_text().splitlines()]


def test_every_kind_of_answer_comes_out_as_expected(pool):
    """Golds that were read in part, tiny numbers, units, order, words: what graders get wrong, kind by kind."""
    surprises = []
    for answer_format in sorted({case["format"] for case in KINDS}):
        cases = [case for case in KINDS if case["format"] == answer_format]
        scores = MathReward(answer_format, pool=pool)(
            [case["completion"] for case in cases], [c["gold"] for c in cases]
        )
        surprises += [(case, score) for case, score in zip(cases, scores, strict=True) if score != case["expected"]]
    assert surprises == []


@pytest.mark.parametrize(("cases", "outcome"), [(EQUAL, "correct"), (DIFFERENT, "wrong")])
def test_answers_are_compared_as_mathematics(pool, cases, outcome):
    reward = MathReward("boxed", pool=pool)
    verdicts = reward.verdicts([f"so $\\boxed{{{answer}}}$." for answer, _ in cases], [gold for _, gold in cases])
    others = [
        (case, verdict.outcome) for case, verdict in zip(cases, verdicts, strict=True) if verdict.outcome != outcome
    ]
    assert others == []


DOCUMENTED = re.findall(
    r"^\| `([^`]+)` \| `([^`]+)` \|",
    (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text().partition("What is not taken for equal")[2],
    re.MULTILINE,
)


def test_what_the_page_calls_unequal_is_unequal(pool):
    golds, answers = zip(*DOCUMENTED, strict=True)
    reward = MathReward("boxed", pool=pool)
    assert len(DOCUMENTED) >= 20
    assert reward([f"\\boxed{{{answer}}}" for answer in answers], golds) == [0.0] * len(DOCUMENTED)
    assert reward([f"\\boxed{{{gold}}}" for gold in golds], golds) == [1.0] * len(DOCUMENTED)


@pytest.mark.parametrize("gold", ["", "   ", None, "$", "{", "???"])
def test_a_gold_answer_that_cannot_be_read_is_no_score(pool, gold):
    reward = MathReward("boxed", pool=pool)
    assert reward(["\\boxed{3}", "no answer"], [gold, gold]) == [None, None]
    assert reward.counts == {"unparseable_gold": 2}


@pytest.mark.parametrize("answer", ["\\frac{", "}{", "\\text{", "!!!"])
def test_an_answer_that_cannot_be_read_is_unparseable(pool, answer):
    assert MathReward("answer", pool=pool).verdicts([f"Answer: {answer}"], ["3"])[0].outcome == "unparseable"


FOUND = [
    # boxed: the last one, braces balanced
    ("boxed", "so \\boxed{34}.", "34"),
    ("boxed", "\\boxed{1} and then \\boxed{2}", "2"),
    ("boxed", "\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
    ("boxed", "\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("boxed", "\\fbox{7}", "7"),
    ("boxed", "\\boxed 7", "7"),
    ("boxed", "$\\boxed{ $34$ }$", "34"),
    ("boxed", "\\boxed{34", None),  # cut off: the number might have gone on
    ("boxed", "\\boxed{}", None),
    ("boxed", "The answer is 34.", None),
    ("boxed", "", None),
    # answer: the rest of the last line that has it
    ("answer", "Thus.\nAnswer: 34", "34"),
    ("answer", "Answer: 1\nNo.\n**Answer:** $2$.", "2"),
    ("answer", "answer : \\(x\\)", "x"),
    ("answer", "Answer: \\boxed{34}", "34"),
    # as verl reads it: white space after the colon may be a line break, and an "Answer:" without any is none
    ("answer", "Answer:\n34", "34"),
    ("answer", "**Answer:**\n\n$$34$$\nbye", "34"),
    ("answer", "Answer: 34\n\nAnswer:\n", "34"),
    ("answer", "Answer: 34\n**Answer:**", "34"),
    ("answer", "Answer:\nAnswer: 34", "34"),
    ("answer", "Answer:", None),
    ("answer", "34", None),
    # hashes: GSM8K
    ("hashes", "2 + 3 = 5\n#### 1,000", "1,000"),
    ("hashes", "#### 1\n#### 2\nbye", "2"),
    ("hashes", "5", None),
    ("last_number", "first 3 then -4.5.", "-4.5"),
    ("last_number", "none", None),
    # a number is taken with what makes more of it
    ("last_number", "the answer is 3/4.", "3/4"),
    ("last_number", "It is 50 %", "50%"),
    ("last_number", "so 1,250/3", "1250/3"),
    ("last_number", "The answer is $\\frac{3}{4}$", "\\frac{3}{4}"),
    ("last_number", "$-\\frac12$", "-\\frac12"),
    ("last_number", "$3\\frac{1}{2}$", "3\\frac{1}{2}"),
    ("last_number", "$\\frac{\\sqrt{2}}{2}$", "\\frac{\\sqrt{2}}{2}"),
    ("last_number", "$2\\sqrt{3}$.", "2\\sqrt{3}"),
    ("last_number", "$\\frac{3}{4} = 0.75$", "0.75"),
    ("last_number", "10^3", "10^3"),
    ("last_number", "$x^2$", None),  # the 2 is no answer
    ("last_number", "1e5", None),
    ("tag", "<answer>1</answer> or <answer> 2 </answer>", "2"),
    ("tag", "<answer>1", None),
    # auto: the last marker, then the last number
    ("auto", "Answer: 1\n#### 2\n\\boxed{3}\n4", "3"),
    ("auto", "Answer: 1\n#### 2\n4", "2"),
    ("auto", "\\boxed{3}\nAnswer: 1\n4", "1"),
    ("auto", "#### 2\n4", "2"),
    ("auto", "it is 4", "4"),
    ("auto", "it is 3/4", "3/4"),
    ("auto", "\\boxed{} so 4", "4"),
    # dapo: the end of the completion alone
    ("dapo", "Answer: 34" + " " * 200, "34"),
    ("dapo", "Answer: 34" + " x" * 200, None),
    ("dapo", "Answer:\n34", "34"),
    ("dapo", "\\boxed{35}\nAnswer: 34", "34"),
    ("dapo", "\\boxed{35}", "35"),
]


@pytest.mark.parametrize(("answer_format", "text", "answer"), FOUND)
def test_where_the_answer_is_found(answer_format, text, answer):
    assert extract_answer(text, answer_format) == answer


def test_every_format_is_in_the_table():
    assert {answer_format for answer_format, _, _ in FOUND} == FORMATS.keys() == set(answer_formats()) - {"math_verify"}


def test_a_completion_that_was_cut_off_has_no_last_number(pool):
    texts = ["so 4", "so 4", "\\boxed{4}"]
    verdicts = MathReward("auto", pool=pool).verdicts(texts, ["4"] * 3, complete=[True, False, False])
    assert [verdict.outcome for verdict in verdicts] == ["correct", "unparseable", "correct"]


def test_an_answer_longer_than_any_is_none():
    assert extract_answer(f"\\boxed{{{'9' * MAX_ANSWER_CHARS}}}") == "9" * MAX_ANSWER_CHARS
    assert extract_answer(f"\\boxed{{{'9' * (MAX_ANSWER_CHARS + 1)}}}") is None


def test_the_search_is_linear_in_the_length():
    import time

    for text in (
        "\\boxed{" * 200_000,
        "{" * 1_000_000,
        "Answer: " * 150_000,
        "#" * 1_000_000,
        "answer *" * 150_000,
        "answer" + " " * 1_000_000,
        "answer:" + "\n" * 1_000_000,
        "1" * 1_000_000,
        "12^" * 300_000,
        "\\frac{" * 200_000 + "1",
        "\\frac{{1}{1}" * 80_000,
        "<answer>" * 100_000,
        "</answer>" * 100_000,
        "<think>" * 100_000,
        "the answer is " * 70_000,
        "$$" * 400_000,
        "answer: $$" * 80_000,
        "½" * 300_000,
    ):
        started = time.process_time()
        for answer_format in FORMATS:
            extract_answer(text, answer_format)
        last_boxed(text)
        assert time.process_time() - started < 3


def test_spellings_of_an_answer_have_one_value(pool):
    reward = MathReward("boxed", pool=pool)
    groups = [["1/2", "0.5", "\\frac12", "\\dfrac{2}{4}"], ["34", "34.0", "34 dollars", "x=34"], ["\\{1,2\\}", "2,1"]]
    for group in groups:
        verdicts = reward.verdicts([f"\\boxed{{{answer}}}" for answer in group], ["7"] * len(group))
        assert {verdict.outcome for verdict in verdicts} == {"wrong"}
        assert len({verdict.value for verdict in verdicts}) == 1
        assert [verdict.answer for verdict in verdicts] == group  # the model's own words are kept


@pytest.mark.parametrize(
    ("text", "gold", "outcome"),
    [("the answer is 3/4", "0.75", "correct"), ("It is 50%", "0.5", "correct"), ("is $\\frac{3}{4}$", "4", "wrong")],
)
def test_auto_takes_a_number_whole(pool, text, gold, outcome):
    assert MathReward("auto", pool=pool).verdicts([text], [gold])[0].outcome == outcome


@pytest.mark.parametrize(
    ("text", "gold", "outcome"),
    [
        ("The final answer is: $\\boxed{1/2}$. I hope it is correct", "0.5", "correct"),
        ("The answer is 34", "34", "correct"),
        ("\\boxed{34} and later 12", "34", "correct"),  # boxed goes first
        ("I cannot say.", "34", "unparseable"),
    ],
)
def test_math_verify_can_look_for_the_answer_itself(pool, text, gold, outcome):
    assert MathReward("math_verify", pool=pool).verdicts([text], [gold])[0].outcome == outcome


def test_an_unknown_format_is_refused():
    with pytest.raises(RewardError, match=r"no answer format 'boxd'\. Did you mean 'boxed'"):
        MathReward("boxd")
