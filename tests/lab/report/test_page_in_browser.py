"""The page in headless Chromium: a real run and hostile text. Nothing executes, nothing breaks, pointing works."""

import dataclasses

import pytest
from browser import text_of, write
from hostile import HOSTILE

from dgpo.credit_log import LoggedStep
from dgpo.lab.runs.reader import Run

NAMES = {
    "w": "weight",
    "a": "token advantage",
    "d": "squared Hellinger distance",
    "h": "entropy",
    "s": "score",
    "r": "log-ratio",
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hostile_text_is_text(browser, hostile, tmp_path, dark):
    page = write(tmp_path / "page.html", [hostile])
    browser.open(page, dark=dark)
    spans = "document.querySelectorAll('#cards .tokens')[0].querySelectorAll('.t')"
    assert browser.run(f"{spans}.length") == len(HOSTILE)
    for index, text in enumerate(HOSTILE[:11]):
        assert browser.run(f"{spans}[{index}].textContent") == text
        browser.point_at("#cards .t", index)
        assert text_of(browser, "#tip .what code") == text
    assert browser.run(f"{spans}[{HOSTILE.index(chr(0x202E) + 'gnp.exe')}].textContent") == "U+202Egnp.exe"
    assert browser.run(f"{spans}[{HOSTILE.index('👩‍👩‍👧‍👦')}].textContent") == "👩‍👩‍👧‍👦"
    control = HOSTILE.index("\x00\x07\x1b[31m\x7f")
    assert browser.run(f"{spans}[{control}].textContent") == "␀␇␛[31m␡"
    for text, seen in (
        ("a\u034fb", "aU+034Fb"),
        ("\U000e0041\U000e0042", "U+E0041U+E0042"),
        ("\U000e0101\u180b", "U+E0101U+180B"),
        ("❤\ufe0f é", "❤\ufe0f é"),
    ):
        assert browser.run(f"{spans}[{HOSTILE.index(text)}].textContent") == seen
    assert browser.run("document.querySelectorAll('img, script:not(#data), iframe, object').length") == 1  # its own
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(18, 19, 22)" if dark else "rgb(251, 251, 249)"
    )
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.problems == []
    assert browser.requests == [page.resolve().as_uri()]


def test_the_policy_stops_a_script_that_would_get_in(browser, hostile, tmp_path):
    """The second wall: even markup written into the file by hand does not run."""
    page = write(tmp_path / "page.html", [hostile])
    evil = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'></main>"
    page.write_text(page.read_text().replace("</main>", evil))
    browser.open(page)
    assert browser.run("window.owned") is None
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_every_measure_step_reward_and_order_can_be_chosen(browser, hostile, tmp_path):
    browser.open(write(tmp_path / "page.html", [hostile]))

    def choose(name, value):
        browser.enter(f"by-{name}", value)
        return browser.run("document.querySelectorAll('.card').length")

    assert choose("step", "20") == 2
    colour = "document.querySelectorAll('#cards .t')[24].style.backgroundColor"
    seen = {}
    for measure in ("w", "d", "h", "s", "a", "r"):
        browser.run(f"document.querySelector('input[value={measure}]').click()")
        seen[measure] = browser.run(colour)
        assert "legend" not in seen[measure]
        assert text_of(browser, "#legend b") == NAMES[measure]
    assert "--more" in seen["w"]
    assert "--seq" in seen["d"]

    assert choose("step", "all") == 3
    assert choose("reward", "0|0") == 1
    assert choose("reward", "1|1") == 2
    assert choose("order", "newest") == 2
    assert text_of(browser, ".group .meta b") == "20"
    browser.enter("search", "nowhere")
    assert text_of(browser, "#cards .nothing") == "No completion fits these filters."
    assert browser.problems == []


def test_the_numbers_are_those_of_the_log(browser, completion, tmp_path):
    alternatives = {1: {"policy": [("b", 0.75), ("c", 0.2)], "reference": [("c", 0.5)]}}
    one = completion("a", "b", w=[0.5, 1.5], logp=[-1.0, -0.6931472], alternatives=alternatives)
    browser.open(write(tmp_path / "page.html", [Run("one", steps=[LoggedStep(3, {}, [one])])]))
    browser.point_at("#cards .t", 1)
    shown = browser.run(
        "Object.fromEntries([...document.querySelectorAll('#tip dd')].map((e) => [e.dataset.key, e.textContent]))"
    )
    # h = 2/3, d = 1/3, s = 2/9, log-ratio 2/3 - 1/2, A w = 1.25 * 1.5, p = exp(-log 2), q = p exp(-1/6)
    assert shown == {
        "w": "1.5",
        "d": "0.333",
        "h": "0.667",
        "s": "0.222",
        "a": "1.88",
        "r": "0.167",
        "p": "0.5",
        "q": "0.423",
    }
    rows = browser.run("[...document.querySelectorAll('#tip tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert rows == [["likeliest here", "policy", "reference"], ["b", "0.75", "–"], ["c", "0.2", "0.5"]]
    browser.point_at("h1")
    assert browser.run("document.getElementById('tip').hidden")


def test_tables_of_tokens_say_that_they_are_of_the_whole_run(browser, completion, tmp_path):
    steps = [LoggedStep(n, {}, [completion("a", "b", "a", "b")]) for n in (1, 2)]
    for kind, whole in (("report", "the run"), ("inspect", "the text")):
        browser.open(write(tmp_path / f"{kind}.html", [Run("one", steps=steps)], kind=kind))
        titles = browser.run("[...document.querySelectorAll('.panel h3')].map((e) => e.textContent)")
        assert [f"Most credited tokens of {whole}", f"Least credited tokens of {whole}"] == titles[-2:]


def test_the_keyboard_goes_from_token_to_token(browser, completion, tmp_path):
    browser.open(write(tmp_path / "page.html", [Run("one", steps=[LoggedStep(3, {}, [completion(*"abc")])])]))
    browser.run("document.querySelector('.t').focus()")
    for key, token in (("ArrowRight", "b"), ("End", "c"), ("ArrowLeft", "b"), ("Home", "a")):
        browser.press(key)
        assert text_of(browser, "#tip .what code") == token
        assert browser.run("document.activeElement.textContent") == token
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")
    assert browser.run("document.querySelectorAll('.t[tabindex=\"0\"]').length") == 1


def test_the_tip_goes_along_where_the_keyboard_scrolls(browser, completion, tmp_path):
    long = completion(*[f"{n} " for n in range(500)])
    browser.open(write(tmp_path / "page.html", [Run("one", steps=[LoggedStep(3, {}, [long])])]), width=390, height=500)
    browser.run("document.querySelector('.t').focus()")
    browser.press("End")
    browser.run("new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100))")
    assert browser.run("scrollY") > 0
    assert text_of(browser, "#tip .what code") == "499 "
    boxes = ("document.getElementById('tip')", "document.activeElement")
    tip, token = (browser.run(f"JSON.parse(JSON.stringify({e}.getBoundingClientRect()))") for e in boxes)
    assert 0 <= tip["top"] < tip["bottom"] <= 500
    assert tip["bottom"] <= token["top"] or token["bottom"] <= tip["top"]  # beside the token, not over it


def test_a_hundred_thousand_tokens(browser, completion, tmp_path):
    long = completion(*["tok ", "🙂", "שלום "] * 33_334)
    browser.open(write(tmp_path / "page.html", [Run("one", steps=[LoggedStep(1, {}, [long])])], kind="inspect"))
    assert browser.run("document.querySelectorAll('#cards .t').length") == 600
    assert "99,402 of 100,002 tokens are not shown" in text_of(browser, ".gap")
    assert "Of long completions 20,000 tokens are shown" in text_of(browser, "#notes")
    browser.run("document.querySelector('.gap button').click()")
    assert browser.run("document.querySelectorAll('#cards .t').length") == 4600
    browser.point_at("#cards .t", 4399)
    assert "token 4400 of 100,002" in text_of(browser, "#tip .what")
    browser.point_at("#cards .t", 4599)
    assert "token 100002 of 100,002" in text_of(browser, "#tip .what")
    for _ in range(5):
        browser.run("document.querySelector('.gap button')?.click()")
    assert browser.run("document.querySelectorAll('#cards .t').length") == 20_000
    places = "[...document.querySelectorAll('#cards .t')].map((e) => e.index)"
    assert browser.run(f"{places}.every((index, place) => index === place)")
    assert "80,002 of 100,002 tokens are not on this page" in text_of(browser, ".gap")
    assert browser.problems == []


def test_curves_of_two_runs_lie_over_each_other(browser, completion, tmp_path):
    curve = [(step, step / 100) for step in range(1, 101)]
    one = Run(
        "one",
        {"reward": curve, "odd/metric": curve},
        {"tau": 0.5},
        {"steps": "100"},
        [LoggedStep(1, {}, [completion("a")])],
    )
    two = dataclasses.replace(one, name="two", curves={"reward": curve[:50]}, config={"tau": 0.05})
    browser.open(write(tmp_path / "page.html", [one, two]))
    assert browser.run("document.querySelectorAll('[data-metric=reward] path.line').length") == 2
    browser.point_at("[data-metric=reward] svg")
    # The middle of the picture, 150 of 300, on an axis from 40 to 298: 1 + 99 * 110 / 258 = 43.2
    assert text_of(browser, "[data-metric=reward] .now") == "0.43 · 0.43 at 43"
    assert text_of(browser, '[data-metric="odd/metric"] .now') == "0.43 at 43"
    assert browser.run("[...document.querySelectorAll('#differences td')].map((e) => e.textContent)") == [
        "tau",
        "0.5",
        "0.05",
    ]
    assert text_of(browser, "#last-figures td") == "steps"
    assert browser.run("[...document.getElementById('by-run').options].map((e) => e.textContent)") == [
        "side by side",
        "one",
        "two",
    ]
    assert browser.problems == []


def test_completions_of_two_runs_stand_side_by_side(browser, completion, tmp_path):
    """The same prompt in the same row, whatever its place in the file; what has no partner comes after."""

    def run(name, prompts, share):
        made = [completion(name, "b", prompt=prompt, effective_share=share) for prompt in prompts]
        return Run(name, steps=[LoggedStep(1, {}, made[:1]), LoggedStep(20, {}, made)])

    runs = [run("<i>left", ["p", "q", "only left"], 0.9), run("right", ["q", "p"], 0.4)]
    browser.open(write(tmp_path / "page.html", runs))
    assert browser.run("document.getElementById('by-step').value") == "20"
    cells = "[...document.querySelectorAll('#cards > *')].map((e) => e.querySelector('.prompt')?.textContent ?? '')"
    assert browser.run(cells) == ["", "", "p", "p", "q", "q", "only left", ""]
    assert browser.run("[...document.querySelectorAll('#cards h3')].map((e) => e.textContent)") == ["<i>left", "right"]
    left, right = (f"document.querySelectorAll('#cards .group')[{n}].getBoundingClientRect()" for n in (0, 1))
    assert browser.run(f"{left}.top === {right}.top && {left}.right <= {right}.left")
    assert browser.run("[...document.querySelectorAll('#side .big')].map((e) => e.textContent)") == ["0.9", "0.4"]
    browser.point_at("#cards .t", 2)
    assert text_of(browser, "#tip .what code") == "right"
    browser.enter("by-run", "1")
    assert browser.run("document.querySelectorAll('#cards article').length") == 2
    assert browser.problems == []


def test_it_opens_where_the_given_credit_is_least_even(browser, completion, tmp_path):
    shares = {1: (1.0, 1.0), 20: (0.5, 1.0), 40: (0.1, 0.0), 60: (0.9, -1.0)}  # effective share, advantage
    steps = [
        LoggedStep(step, {}, [completion("a", effective_share=share, advantage=advantage)])
        for step, (share, advantage) in shares.items()
    ]
    browser.open(write(tmp_path / "page.html", [Run("one", steps=steps)]))
    assert browser.run("document.getElementById('by-step').value") == "20"
    assert "Step 20" in text_of(browser, "#credit-lead")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_leaves_a_narrow_screen(browser, hostile, tmp_path, width):
    browser.open(write(tmp_path / "page.html", [hostile, dataclasses.replace(hostile, name="x" * 300)]), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    last = browser.run("document.querySelectorAll('#cards .t').length") - 1
    browser.point_at("h1")
    for index in (0, HOSTILE.index("x" * 5000), last):
        browser.run(f"document.querySelectorAll('#cards .t')[{index}].focus()")
        tip = "document.getElementById('tip').getBoundingClientRect()"
        assert browser.run(f"{tip}.left >= 0 && {tip}.right <= {width} && {tip}.width > 0")
    assert browser.problems == []


def test_letters_stand_out_from_every_colour(browser, hostile, tmp_path):
    """WCAG's contrast of 4.5 for the strongest colours of each measure, in both schemes."""
    page = write(tmp_path / "page.html", [hostile])
    contrast = """(() => {
      const parse = (c) => c.match(/[\\d.]+/g).map(Number);
      const card = parse(getComputedStyle(document.querySelector('.group')).backgroundColor);
      const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      return Math.min(...[...document.querySelectorAll('.t, .scale span')].map((e) => {
        const s = getComputedStyle(e), [r, g, b, a = 1] = parse(s.backgroundColor);
        const back = [r, g, b].map((v, i) => a * v + (1 - a) * card[i]);
        const [x, y] = [light(parse(s.color)), light(back)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
      }));
    })()"""
    for dark in (False, True):
        browser.open(page, dark=dark)
        for measure in ("w", "d", "r"):
            browser.run(f"document.querySelector('input[value={measure}]').click()")
            assert browser.run(contrast) >= 4.5, (dark, measure)


@pytest.mark.slow
def test_a_real_run(browser, tmp_path, monkeypatch):
    """Train, report, look: the command's own page of a run with a credit log."""
    from pathlib import Path

    from dgpo.credit_log import read_credit_log
    from dgpo.lab.cli.main import main
    from dgpo.lab.tasks.forks import warm_up_model

    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "cache"))
    model = warm_up_model(num_forks=1, steps=30, batch_size=16, hidden_size=16, num_layers=1, progress=False)
    recipe = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
    run = tmp_path / "run"
    small = ["--num_generations=4", "--per_device_train_batch_size=8", "--max_completion_length=9", "--eval_size=0"]
    words = ["train", str(recipe), f"--model_name_or_path={model}", "--task_args={num_forks: 1, size: 16}", *small]
    assert main([*words, "--max_steps=4", "--credit_log_steps=2", f"--output_dir={run}"]) == 0
    assert main(["report", str(run)]) == 0
    browser.open(run / "report.html")
    logged = read_credit_log(run)
    assert [step.step for step in logged] == [1, 2, 4]
    assert browser.run("document.querySelectorAll('.card').length") == len(logged[-1].completions) == 8
    browser.point_at("#cards .t", 2)
    expected = logged[-1].completions[browser.run("document.querySelector('.card').entry.completion.id")]
    assert float(text_of(browser, "#tip dd[data-key=w]")) == pytest.approx(expected.w[2], abs=1e-4)
    assert browser.run("document.querySelectorAll('#tip tr').length") > 3  # alternatives
    assert browser.run("document.querySelectorAll('#charts .chart').length") > 8
    assert browser.problems == []
