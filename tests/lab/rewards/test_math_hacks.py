"""Answers that try to be right without saying the right value: none of them scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo.lab.rewards.answers.check import check_answer
from dgpo.lab.rewards.extraction import extract_answer

number = st.integers(2, 99)
# A gold answer of each shape, and one that looks like it and is another value.
SHAPES = {
    "integer": ("{a}", "{b}"),
    "negative": ("-{a}", "{a}"),
    "decimal": ("{a}.25", "{a}.26"),
    "fraction": ("\\frac{{{a}}}{{101}}", "\\frac{{{b}}}{{101}}"),
    "mixed": ("{a}\\frac{{1}}{{3}}", "{a}\\frac{{1}}{{4}}"),
    "root": ("{a}\\sqrt{{7}}", "{b}\\sqrt{{7}}"),
    "power": ("3^{{{a}}}", "3^{{{b}}}"),
    "tiny": ("2^{{-{a}}}", "-2^{{-{a}}}"),
    "scientific": ("{a}\\times 10^{{-19}}", "{b}\\times 10^{{-19}}"),
    "e-notation": ("{a}e-7", "{b}e-7"),
    "percent": ("{a}\\%", "{b}\\%"),
    "pi": ("{a}\\pi", "{b}\\pi"),
    "complex": ("{a}+3i", "{a}-3i"),
    "expression": ("{a}x^2+1", "{b}x^2+1"),
    "product": ("(x+{a})(x-1)", "(x-{a})(x-1)"),
    "assignment": ("x={a}", "x={b}"),
    "assignments": ("x={a},y=101", "x=101,y={a}"),
    "pair": ("({a},101)", "(101,{a})"),
    "triple": ("({a},101,0)", "({a},0,101)"),
    "list": ("[{a}, 101, 0]", "[101, {a}, 0]"),
    "set": ("\\{{{a},101\\}}", "\\{{{b},101\\}}"),
    "roots": ("{a}, 101", "{b}, 101"),
    "interval": ("[{a},101)", "[{a},101]"),
    "half line": ("({a},\\infty)", "[{a},\\infty)"),
    "union": ("(-\\infty,1)\\cup({a},\\infty)", "(-\\infty,1)\\cup({b},\\infty)"),
    "inequality": ("x>{a}", "x<{a}"),
    "builder": ("\\{{x \\mid x \\ge {a}\\}}", "\\{{x \\mid x > {a}\\}}"),
    "equation": ("x^2+y^2={a}", "x^2+y^2={b}"),
    "base": ("{a}_{{11}}", "{a}_{{12}}"),
    "ratio": ("{a}:101", "101:{a}"),
    "matrix": (
        "\\begin{{pmatrix}}{a}\\\\1\\end{{pmatrix}}",
        "\\begin{{pmatrix}}1\\\\{a}\\end{{pmatrix}}",
    ),
    "plus minus": ("1\\pm\\sqrt{{{a}}}", "1\\pm\\sqrt{{{b}}}"),
    "unit": ("{a} \\text{{ cm}}", "{b} \\text{{ cm}}"),
    "repeating": ("0.\\overline{{{a}}}", "0.{a}"),
    "binomial": ("\\binom{{{a}}}{{2}}", "\\binom{{{a}}}{{2}}+1"),
    "condition": ("x^2-y^2={a} (x>0)", "x^2-y^2={a} (x<0)"),
}
# What fits every question, and says nothing.
UNIVERSAL = (
    r"""
x|n|?|\ldots|\infty|nan|\frac{0}{0}|0/0|x=x|true|\text{the answer}|answer|\text{all real numbers}|\mathbb{R}|()|\{\}
(-\infty,\infty)|[-10^9, 10^9]|\{x \mid x = x\}|\emptyset|\pm x|\forall x|\text{any}|any number|\text{correct}|*|=
\boxed{}|{}|\int x dx|\sum_{i} i|[0, 200]|\text{between 1 and 200}|1 \text{ to } 200|1-200|\text{not } 1000000
\neq 1000000|x \le 200|0 < x < 200|\{1,2,\ldots,200\}|1,2,3,\ldots|\text{see above}|\text{a number}|\text{it depends}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
# Two values where one was asked for.
JOINED = (
    r"""
{0}, {1}|{0} or {1}|{0} \text{{ or }} {1}|{0};{1}|\{{{0}, {1}\}}|({0}, {1})|[{0}, {1}]|{0} and {1}|{0} \quad {1}
{0} \\ {1}|{0} / {1}|{1} ({0})|{0} = {1}|{0} \neq {1}|{0} \approx {1} \approx {0}|{1} \text{{ not }} {0}|{0} \cup {1}
{0} \text{{ if true, }} {1} \text{{ if not}}|\frac{{{0}}}{{{1}}}|{0}\text{{ more than }}{1}|{0}:{1}|{0} \to {1}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def correct(gold, answer):
    return check_answer(gold, answer, raw=False)[0] == "correct"


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(a=number, b=number)
def test_a_gold_answer_equals_itself_and_nothing_that_looks_like_it(shape, a, b):
    gold, other = (text.format(a=a, b=b if b != a else a + 1) for text in SHAPES[shape])
    assert correct(gold, gold)
    assert correct(gold, f"${gold}$.")
    assert not correct(gold, other)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(a=number)
def test_what_fits_every_question_is_no_answer(shape, a):
    gold = SHAPES[shape][0].format(a=a, b=0)
    assert [answer for answer in UNIVERSAL if correct(gold, answer)] == []


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(a=number, b=number)
def test_two_values_are_no_answer(shape, a, b):
    gold, other = (text.format(a=a, b=b if b != a else a + 1) for text in SHAPES[shape])
    hedged = [text.format(*pair) for text in JOINED for pair in ((gold, other), (other, gold))]
    # What stands in front of an approximation is what was meant.
    hedged = [text for text in hedged if not text.startswith(f"{gold} \\approx")]
    assert [answer for answer in hedged if correct(gold, answer)] == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(a=st.integers(2, 10**6), before=st.text(max_size=8), after=st.text(max_size=8))
def test_a_number_within_any_text_scores_only_if_the_text_says_it(a, before, after):
    """Whatever stands around another number does not make it the gold answer."""
    assert not correct(str(a), f"{before}{a + 1}{after}") or str(a) in f"{before}{a + 1}{after}"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.,-+*/^(){}[]\\$%xe =_!|<>", max_size=14))
def test_any_text_is_read_or_refused(text):
    """No answer raises, and none equals a number that it does not hold."""
    assert check_answer("271828182845", text, raw=False)[0] in ("wrong", "unparseable")
    extract_answer(text)
