"""Reading the page in headless Chromium: by keyboard, by address, several seeds, logs without a credit rule."""

from browser import text_of, violations, write

from dgpo.credit_log import LoggedStep
from dgpo.lab.runs.reader import Run


def pair_of(completion, step, **changes):
    return [
        completion("so ", "it ", "is ", f"{side}{step}", group=0, advantage=a, reward=float(a > 0), **changes)
        for side, a in (("right", 1.0), ("wrong", -1.0))
    ]


HERE = "document.activeElement.textContent"


def test_everything_is_within_reach_of_the_keyboard(browser, completion, tmp_path):
    steps = [LoggedStep(step, {}, pair_of(completion, step)) for step in (1, 20, 40)]
    browser.open(write(tmp_path / "page.html", [Run("", steps=steps)]))
    browser.enter("by-step", "20")
    browser.run("document.querySelector('.t').focus()")
    # To the same place of the completion beside it, and back.
    for key, token in (("End", "right20"), ("ArrowDown", "wrong20"), ("ArrowDown", "wrong20"), ("ArrowUp", "right20")):
        browser.press(key)
        assert browser.run(HERE) == token
    # To the steps before and after; at the ends nothing happens.
    for key, step in (("[", "1"), ("]", "20"), ("]", "40"), ("]", "40")):
        browser.type(key)
        assert browser.run("document.getElementById('by-step').value") == step
        assert browser.run(HERE) == "so "
    browser.type("/")
    assert browser.run("[document.activeElement.id, document.activeElement.value]") == ["search", ""]
    for key in "wro[/":  # in the box they are letters
        browser.type(key)
    assert browser.run("document.activeElement.value") == "wro[/"
    browser.enter("search", "wrong")
    browser.press("Escape")
    assert browser.run(HERE) == "so "
    browser.press("End")
    assert browser.run(HERE) == "wrong40"
    assert browser.run("document.querySelector('.keys').open") is False
    assert "to the logged step before or after" in text_of(browser, ".keys")
    assert browser.problems == []


def test_a_long_prompt_shows_its_question_and_scrolls_by_keyboard(browser, completion, tmp_path):
    """After a system prompt or examples, the question stands at the end."""
    pair = pair_of(completion, 1, prompt="an example\n" * 20 + "the question")
    browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, pair)])]), width=390, height=844)
    prompt = "document.querySelector('.prompt')"
    assert browser.run(f"[{prompt}.tabIndex, {prompt}.scrollTop > 0]") == [0, True]
    assert browser.run(f"{prompt}.scrollHeight - {prompt}.clientHeight - {prompt}.scrollTop < 2")


def test_an_address_says_what_the_tokens_are_coloured_by(browser, completion, tmp_path):
    column = {"columns": {"sur&prise #1": [0.1, 0.2, 0.3, 0.4]}}
    page = write(tmp_path / "page.html", [Run("", steps=[LoggedStep(7, {}, pair_of(completion, 7, **column))])])
    browser.open(page)
    browser.run("document.querySelectorAll('input[name=measure]')[6].click()")
    link = browser.run("document.querySelectorAll('.card a')[1].getAttribute('href')")
    browser.open(page, fragment=link.removeprefix("#"))
    assert browser.run("document.querySelector('input[name=measure]:checked').value") == "column:sur&prise #1"
    assert text_of(browser, "#legend b") == "sur&prise #1"
    browser.run("document.querySelectorAll('.t')[5].focus()")
    again = browser.run("location.hash")
    assert again == link.replace("&by", "&token=1&by")
    browser.open(page, fragment="run=0&step=7&completion=0&by=__proto__")
    assert browser.run("document.querySelector('input[name=measure]:checked').value") == "w"
    assert browser.problems == []


def test_of_several_seeds_one_of_each_setting_stands_side_by_side(browser, completion, tmp_path):
    def run(rule, seed, accuracy):
        figures = {"held-out accuracy after": f"{accuracy:.3f} (0.1 to 0.9)", "steps": "9", "training time": "5 s"}
        steps = [LoggedStep(1, {}, pair_of(completion, seed))]
        options = {} if rule == "even" else {"credit_options.tau": 0.5, "credit_options.kappa": 1.0}
        return Run(f"{rule}-{seed}", {}, {"credit_rule": rule, "seed": seed, **options}, figures, steps)

    runs = [run("dgpo", 1, 0.4), run("dgpo", 0, 0.6), run("dgpo", 10, 0.8)]
    runs += [run("even", 0, 0.7), run("even", 1, 0.9), run("capped", 0, 0.4)]
    browser.open(write(tmp_path / "page.html", runs), width=1400)
    assert browser.run("[...document.querySelectorAll('#cards h3')].map((e) => e.title)") == [
        "dgpo-0",
        "even-0",
        "capped-0",
    ]
    assert len(browser.run("[...document.getElementById('by-run').options].map((e) => e.value)")) == 7
    cells = "[...document.querySelectorAll('#seed-figures tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    assert browser.run(cells) == [
        ["", "rule dgpo, 3 seeds", "rule even, 2 seeds"],
        # Half the width: Student's t of 4.303 on two degrees, times 0.2 / sqrt(3); a share ends at 0 and 1.
        ["held-out accuracy after", "0.600 (0.103 to 1.000)", "0.800 (0.700, 0.900)"],
    ]
    assert browser.problems == []


def test_weights_that_are_all_1_are_not_what_the_page_opens_with(browser, completion, tmp_path):
    """As of a trainer that is watched: its weights are GRPO's."""
    for even, measure in (
        (completion(*"abc", w=[1.0] * 3), "d"),
        (completion(*"abc", w=[1.0, 1.0, 1.0], d=[0.0] * 3), "h"),
    ):
        browser.open(write(tmp_path / "page.html", [Run("", steps=[LoggedStep(1, {}, [even])])]))
        assert browser.run("document.querySelector('input[name=measure]:checked').value") == measure


def test_a_log_without_a_credit_rule_shows_what_it_has(browser, completion, tmp_path):
    """As of a trainer that is watched and has no reference."""
    nothing = [None] * 4
    facts = {"w": nothing, "d": nothing, "s": nothing, "log_ratio": nothing, "effective_share": None}
    facts |= {"columns": {"sampling_log_ratio": [0.1, -0.1, 0.0, 0.2]}}
    steps = [LoggedStep(step, {}, pair_of(completion, step, **facts)) for step in (1, 20)]
    browser.open(write(tmp_path / "page.html", [Run("", steps=steps)]))
    assert browser.run("document.querySelector('input[name=measure]:checked').value") == "h"
    assert browser.run("document.querySelectorAll('.t.off').length") == 0
    assert text_of(browser, "#side") == "4 completions, without a credit rule."
    assert "least even" not in text_of(browser, "#credit-lead")
    browser.point_at("#cards .t", 1)
    assert text_of(browser, '#tip dd[data-key="column:sampling_log_ratio"]') == "−0.1"
    assert text_of(browser, "#tip dl").endswith("log-ratio to the sampling policy−0.1probability, policy0.67")
    assert browser.problems == []


def test_a_hint_stands_above_its_completion_and_its_numbers_colour_the_tokens(browser, completion, tmp_path):
    """Of five completions: a short hint, a right sibling, none, a log of before hints were logged, and two hints."""
    columns = {"hindsight_log_ratio": [0.5, 1.0, 0.0, 2.0], "hindsight_hellinger_sq": [0.25, 0.5, 0.0, 0.125]}
    sibling = "First <b>this</b>.\n" * 9
    texts = [{"hint": "42", "columns": columns}, {"hint": sibling, "columns": columns}, {"hint": ""}, {}]
    texts += [{"hint": "42", "control": "<7>", "hint_agreement": 0.25}]
    group = [
        completion("so ", "it ", "is ", f"{n}", group=0, advantage=5.0 - n, **more) for n, more in enumerate(texts)
    ]
    page = write(tmp_path / "page.html", [Run("", steps=[LoggedStep(7, {}, group)])])
    browser.open(page, fragment="run=0&step=7&completion=0&by=column:hindsight_log_ratio")
    hints = browser.run(
        "[...document.querySelectorAll('.card')].map((c) => c.querySelector('.told')?.innerText ?? null)"
    )
    agrees = " · the rewards agree in 25 % of the pairs"
    told = ["hint 42", "hint First <b>this</b>. …", "no hint, plain rule", None, f"hint 42 compared with <7>{agrees}"]
    assert hints == told
    browser.run("document.querySelector('details.told summary').click()")
    assert text_of(browser, "details.told .prompt") == sibling
    assert violations(browser) == []
    # The scale has its middle at 0 though no value lies below it; the other measure goes from 0 up.
    assert text_of(browser, "#legend b") == "log-ratio of the hint"
    assert browser.run("document.querySelectorAll('#cards .t')[1].style.backgroundColor").startswith("rgba(var(--more)")
    browser.point_at("#cards .t", 1)
    assert text_of(browser, '#tip dd[data-key="column:hindsight_log_ratio"]') == "1"
    assert text_of(browser, '#tip dd[data-key="column:hindsight_hellinger_sq"]') == "0.5"
    browser.point_at("#cards .t", 8)
    assert text_of(browser, '#tip dd[data-key="column:hindsight_log_ratio"]') is None
    browser.run("document.querySelector('input[value=\"column:hindsight_hellinger_sq\"]').click()")
    assert browser.run("document.querySelectorAll('#cards .t')[1].style.backgroundColor").startswith("rgba(var(--seq)")
    assert browser.problems == []
