"""The page by prompts, in headless Chromium: groups, measures of any rule, filters, links."""

import pytest
from browser import text_of, violations, write

from dgpo.credit_log import LoggedStep
from dgpo.lab.runs.reader import Run


def group_of(completion, group, advantages, **changes):
    """Completions of one prompt that begin alike and end with their own number."""
    return [
        completion("so ", "it ", "is ", f"{group}{index}", group=group, advantage=a, reward=float(a > 0), **changes)
        for index, a in enumerate(advantages)
    ]


LAST_TOKENS = "[...document.querySelectorAll('.card')].map((e) => e.querySelector('.t:last-of-type').textContent)"


def test_completions_of_a_prompt_stand_side_by_side(browser, completion, tmp_path):
    """Right ones beside wrong ones, those of the largest advantage first; prompts without a signal come last."""
    silent = group_of(completion, 1, [0.0, 0.0], prompt="<b>easy</b>", answer="<i>1</i>")
    mixed = group_of(completion, 2, [0.5, -2.0, 1.5, 0.0], prompt="hard", answer="42")
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [*silent, *mixed])])]), width=1400)
    assert browser.run(LAST_TOKENS) == ["22", "21", "20", "23", "10", "11"]
    assert browser.run("[...document.querySelectorAll('.group .prompt')].map((e) => e.textContent)") == [
        "hard",
        "<b>easy</b>",
    ]
    assert browser.run("[...document.querySelectorAll('.group')].map((e) => e.className)") == ["group", "group silent"]
    facts = browser.run("[...document.querySelectorAll('.group > .meta')].map((e) => e.textContent)")
    assert "correct answer 42" in facts[0]
    assert "mean reward 0.5" in facts[0]
    assert "no signal: every advantage is 0" in facts[1]
    assert "correct answer <i>1</i>" in facts[1]
    boxes = browser.run(
        "[...document.querySelectorAll('.card')].map((e) => JSON.parse(JSON.stringify(e.getBoundingClientRect())))"
    )
    assert boxes[0]["top"] == boxes[1]["top"]
    assert boxes[0]["right"] <= boxes[1]["left"]
    # The first token at which the two differ, and what the other goes on with.
    assert browser.run("[...document.querySelectorAll('.fork')].map((e) => e.textContent)") == [
        *("22", "21", "20", "23", "10", "11"),
    ]
    browser.point_at(".fork")
    assert "The completion beside it goes on with 21." in text_of(browser, "#tip")
    assert browser.problems == []


def test_a_rule_without_a_reference_shows_what_it_has(browser, completion, tmp_path):
    nothing = [None] * 3
    facts = {"d": nothing, "s": nothing, "log_ratio": nothing, "columns": {"<b>surprise": [0.5, -1.0, 2.0]}}
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [completion(*"abc", **facts)])])]))
    names = "[...document.querySelectorAll('.choices label')].map((e) => e.textContent)"
    assert browser.run(names) == ["weight", "token advantage", "entropy", "<b>surprise"]
    assert browser.run("[...document.querySelectorAll('.choices label')].every((e) => e.title)")
    browser.run("document.querySelector('input[value=\"column:<b>surprise\"]').click()")
    colours = browser.run("[...document.querySelectorAll('.t')].map((e) => e.style.backgroundColor)")
    assert ["--more" in colour for colour in colours] == [True, False, True]
    assert "--less" in colours[1]
    browser.point_at("#cards .t", 1)
    assert text_of(browser, '#tip dd[data-key="column:<b>surprise"]') == "−1"
    assert browser.run("document.querySelector('#tip dd[data-key=d]')") is None
    assert browser.problems == []


def test_a_signed_rule_shows_token_advantages(browser, completion, tmp_path):
    signed = completion(*"abc", w=[None] * 3, a=[-1.0, 3.0, None])
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [signed])])]))
    assert browser.run("document.querySelector('input[name=measure]:checked').value") == "a"
    assert browser.run("[...document.querySelectorAll('.t')].map((e) => e.className)") == ["t", "t", "t off"]
    assert "Token advantages" in text_of(browser, "#side h3")
    browser.point_at("#cards .t", 1)
    assert text_of(browser, "#tip dd[data-key=a]") == "3"


def test_a_scale_has_no_value_that_cannot_be(browser, completion, tmp_path):
    """One token of a long tail: a scale that is symmetric about 1 would end at 50, beyond T."""
    made = completion(*"abcd", w=[0.02, 0.98, 1.0, 2.0])
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [made])])]))
    stops = browser.run("[...document.querySelectorAll('.scale span')].map((e) => e.textContent)")
    assert stops == ["0.02", "0.141", "1", "1.41", "2"]
    ticks = browser.run("[...document.querySelectorAll('#side .tick')].map((e) => e.textContent)")
    assert sorted(map(float, ticks)) == [0.02, 1, 2] or sorted(map(float, ticks)) == [0.02, 1]


def test_even_credit_is_not_called_uneven(browser, completion, tmp_path):
    steps = [LoggedStep(step, {}, [completion(*"ab", w=[1.0, 1.0])]) for step in (1, 2)]
    browser.open(write(tmp_path / "page.html", [Run("", steps=steps)]))
    assert "least even" not in text_of(browser, "#credit-lead")
    # Nor are tokens named that would have more credit than others.
    assert "All weights are 1." in text_of(browser, "#side")
    assert browser.run("document.querySelectorAll('#side table, #side svg').length") == 0


def test_a_link_leads_to_its_token(browser, completion, tmp_path):
    long = completion(*[f"{n} " for n in range(3000)], group=1)
    steps = [LoggedStep(1, {}, group_of(completion, 0, [1.0, -1.0])), LoggedStep(20, {}, [completion("a"), long])]
    page = write(tmp_path / "page.html", [Run("one", steps=steps), Run("two", steps=steps)])
    browser.open(page, fragment="run=1&step=20&completion=1&token=1500")
    assert browser.run("document.activeElement.textContent") == "1500 "
    assert text_of(browser, "#tip .what span") == "token 1501 of 3,000"
    assert browser.run("document.getElementById('by-run').value") == "1"
    browser.press("ArrowRight")
    assert browser.run("location.hash") == "#run=1&step=20&completion=1&token=1501"
    browser.run("location.hash = '#run=0&step=1&completion=1'")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("document.activeElement.querySelector('.t:last-of-type').textContent") == "01"
    for odd in ("run=9&step=1&completion=0", "run=0&step=1&completion=77", "completion=<b>"):
        browser.open(page, fragment=odd)
        assert text_of(browser, "#credit-lead") == "The completion of this link is not on the page."
    browser.open(page, fragment="run=0&step=20&completion=1&token=123456")
    assert browser.problems == []


def test_links_of_cards_name_them(browser, completion, tmp_path):
    browser.open(
        write(tmp_path / "page.html", [Run("", steps=[LoggedStep(7, {}, group_of(completion, 0, [1.0, -1.0]))])])
    )
    assert browser.run("[...document.querySelectorAll('.card a')].map((e) => e.getAttribute('href'))") == [
        "#run=0&step=7&completion=0",
        "#run=0&step=7&completion=1",
    ]


def test_filters_leave_the_find_box_its_focus(browser, completion, tmp_path):
    mixed = [
        *group_of(completion, 1, [1.0, -1.0], ended="eos", prompt="p"),
        *group_of(completion, 2, [1.0, -1.0], ended="length", prompt="p"),
        *group_of(completion, 3, [0.0, 0.0], ended="tool", prompt="p"),
    ]
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, mixed)])]))
    browser.run("document.getElementById('search').focus()")
    for key in "is 2":
        browser.type(key)
    assert browser.run("document.activeElement.id") == "search"
    assert browser.run("document.getElementById('search').value") == "is 2"
    assert browser.run(LAST_TOKENS) == ["20", "21"]
    browser.enter("search", "")

    def choose(name, value):
        browser.enter(f"by-{name}", value)
        return browser.run(LAST_TOKENS)

    assert choose("ended", "cut off") == ["20", "21"]
    assert choose("ended", "tool") == ["30", "31"]
    assert choose("ended", "all") == ["10", "11", "20", "21", "30", "31"]
    assert choose("reward", "0|0") == ["11", "21", "30", "31"]
    assert "1 of 2 completions" in text_of(browser, ".group .meta")


def test_tokens_that_are_left_out_are_counted(browser, completion, tmp_path):
    made = completion(*"abcd", num_tokens=10, head=2)
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [made])])]))
    assert text_of(browser, ".tokens") == "ab⋯ 6 of 10 tokens are not on this page cd"
    browser.point_at("#cards .t", 2)
    assert text_of(browser, "#tip .what span") == "token 9 of 10"


def test_of_twenty_thousand_tokens_the_ends_are_drawn(browser, completion, tmp_path):
    group = [completion(*["tok ", "x"] * 10_000, group=0, advantage=a) for a in (1.0, -1.0)]
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, group)])]))
    # How long it takes is measured by benchmarks/report_page.py.
    assert browser.run("document.querySelectorAll('#cards .t').length") == 1200
    browser.run("document.querySelector('.gap button').click()")
    assert browser.run("document.querySelectorAll('#cards .t').length") == 5200


@pytest.mark.parametrize("width", [390, 1400])
def test_runs_that_are_compared_say_what_differs(browser, completion, tmp_path, width):
    def run(tau, prompt):
        steps = [LoggedStep(1, {}, group_of(completion, 1, [1.0, -1.0], prompt=prompt))]
        return Run(f"<b>{tau}", {}, {"tau": tau, "seed": 0}, {"accuracy": "0.5 (0.4 to 0.6)"}, steps)

    for second, says in (("p", False), ("q", True)):
        browser.open(write(tmp_path / "page.html", [run(0.5, "p"), run(0.05, second)]), width=width)
        assert browser.run("[...document.querySelectorAll('#cards h3')].map((e) => [e.textContent, e.title])") == [
            ["tau 0.5", "<b>0.5"],
            ["tau 0.05", "<b>0.05"],
        ]
        assert ("share no prompt" in text_of(browser, "#cards")) is says
        top = "document.querySelector('{}').getBoundingClientRect().top"
        places = [browser.run(top.format(selector)) for selector in ("#differences", "#last-figures", "#cards")]
        assert places == sorted(places)
        named = "[...document.querySelectorAll('.of-run')].map((e) => e.offsetWidth > 0 && e.textContent)"
        assert browser.run(named) == (["tau 0.5", "tau 0.05"] if width == 390 else [False, False])
        assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems == []


def test_seeds_are_drawn_as_a_band(browser, tmp_path):
    def run(tau, seed, rise):
        return Run(f"{tau}-{seed}", {"reward": [(step, step * rise) for step in (1, 2, 3)]}, {"tau": tau, "seed": seed})

    runs = [run(0.5, 0, 0.1), run(0.5, 1, 0.3), run(1.0, 0, 0.2)]
    browser.open(write(tmp_path / "page.html", runs))
    chart = "document.querySelector('[data-metric=reward]')"
    assert browser.run(f"{chart}.querySelectorAll('.band').length") == 1
    assert browser.run(f"{chart}.querySelectorAll('.line').length") == 2
    assert text_of(browser, "[data-metric=reward] .now") == "0.6 · 0.6"  # the mean of 0.3 and 0.9, and one run
    assert browser.run("[...document.querySelectorAll('.names span')].map((e) => e.textContent)") == [
        "tau 0.5",
        "tau 1",
    ]
    # From the lowest to the highest value: the band's corners reach the axes.
    ticks = "[...document.querySelectorAll('[data-metric=reward] .tick')].map((e) => e.textContent)"
    assert {"0.1", "0.9"} <= set(browser.run(ticks))
    assert browser.problems == []


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser, completion, hostile, tmp_path, dark, width):
    """The rules of axe-core for people who use a keyboard, a screen reader or strong contrast."""
    mixed = group_of(completion, 1, [1.0, -1.0, 0.0], answer="42", ended="length")
    silent = group_of(completion, 2, [0.0, 0.0], prompt="a prompt that scrolls\n" * 50)
    curves = {"reward": [(step, step / 9) for step in range(9)]}
    one = Run("one", curves, {"tau": 0.5}, {"steps": "9"}, [LoggedStep(1, {}, [*mixed, *silent])], ["a note"])
    others = [Run(f"run {tau}", curves, {"tau": tau}) for tau in (1, 2, 3, 4)]  # a colour each
    for name, runs in {"one": [one], "several": [one, *others, hostile]}.items():
        browser.open(write(tmp_path / f"{name}.html", runs), dark=dark, width=width)
        browser.run("document.querySelector('.keys').open = true")
        assert violations(browser) == []
