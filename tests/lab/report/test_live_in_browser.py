"""The page while a run trains, in headless Chromium: newer data come, and what somebody looks at stays."""

import json
import threading

import pytest
from browser import text_of, violations
from hostile import HOSTILE

from dgpo.credit_log import CreditLog
from dgpo.lab.report.serve import LivePage, make_server


class Training:
    """A run that makes steps when it is told to, and its server."""

    def __init__(self, folder, settings, completion):
        self.folder, self._settings, self._completion = folder, settings, completion
        self.server = None

    def make_step(self, step, *texts):
        texts = texts or (f"right {step}", f"wrong {step}")
        made = [
            self._completion("so ", text, group=0, advantage=a, reward=float(a > 0))
            for text, a in zip(texts, (1.0, -1.0), strict=True)
        ]
        with (self.folder / "metrics.jsonl").open("a") as file:
            for n in range(max(1, step - 19), step + 1):
                file.write(json.dumps({"step": n, "phase": "train", "reward": n / 100}) + "\n")
        CreditLog(self.folder, self._settings).write(step, made)

    def serve(self, port=0):
        self.server = make_server(LivePage([self.folder], seconds=0.05), port)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def end(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def training(tmp_path, settings, completion):
    made = Training(tmp_path, settings, completion)
    yield made
    made.end()


STEPS = "[...document.getElementById('by-step').options].map((e) => e.value).includes('{}')"
TEXTS = "[...document.querySelectorAll('.card .t:last-of-type')].map((e) => e.textContent)"


def test_it_goes_on_to_each_new_step_and_the_find_box_keeps_its_focus(browser, training):
    training.make_step(1)
    training.make_step(20)
    address = training.serve()
    browser.open(address)
    assert text_of(browser, "#live") == "Live, step 20. The page follows the run."
    assert browser.run(TEXTS) == ["right 20", "wrong 20"]
    browser.run("document.querySelector('input[value=d]').click()")
    browser.run("document.getElementById('search').focus()")
    for key in "rigth":
        browser.type(key)
    browser.run("document.activeElement.setSelectionRange(3, 5)")
    browser.type("h")
    browser.type("t")
    training.make_step(40)
    browser.wait_for("document.getElementById('by-step').value === '40'")
    assert browser.run("document.activeElement.id") == "search"
    assert browser.run("[document.activeElement.value, document.activeElement.selectionStart]") == ["right", 5]
    assert browser.run("document.querySelector('input[name=measure]:checked').value") == "d"
    assert browser.run(TEXTS) == ["right 40"]
    assert text_of(browser, "[data-metric=reward] .now") == "0.4"
    assert text_of(browser, "#live") == "Live, step 40. The page follows the run."
    assert {url.removeprefix(address) for url in browser.requests} == {"", "data"}
    assert browser.problems == []


def test_whoever_is_at_a_token_stays_there(browser, training):
    training.make_step(1)
    training.make_step(20)
    browser.open(training.serve())
    browser.run("document.querySelectorAll('.t')[3].focus()")
    top = "document.activeElement.getBoundingClientRect().top"
    before = browser.run(top)
    training.make_step(40)
    browser.wait_for(STEPS.format(40))
    assert browser.run("document.activeElement.textContent") == "wrong 20"
    assert text_of(browser, "#tip .what code") == "wrong 20"
    assert browser.run(top) == pytest.approx(before, abs=1)
    assert browser.run("document.getElementById('newest').checked")
    browser.run("document.activeElement.blur()")
    training.make_step(60)
    browser.wait_for("document.getElementById('by-step').value === '60'")
    assert browser.problems == []


def test_a_step_that_was_chosen_stays(browser, training):
    training.make_step(1)
    training.make_step(20)
    browser.open(training.serve())
    browser.enter("by-step", "1")
    assert not browser.run("document.getElementById('newest').checked")
    training.make_step(40)
    browser.wait_for(STEPS.format(40))
    assert browser.run(TEXTS) == ["right 1", "wrong 1"]
    browser.run("document.getElementById('newest').click()")
    assert browser.run(TEXTS) == ["right 40", "wrong 40"]
    # All steps: the cards are drawn anew, and the focus finds its token again.
    browser.enter("by-step", "all")
    browser.run("[...document.querySelectorAll('.t')].find((e) => e.textContent === 'wrong 20').focus()")
    training.make_step(60)
    browser.wait_for(f"{TEXTS}.length === 8")
    assert browser.run("document.activeElement.textContent") == "wrong 20"
    browser.run("document.activeElement.blur()")
    browser.run("document.querySelector('[data-metric=reward] svg').focus()")
    browser.press("ArrowLeft")
    training.make_step(80)
    browser.wait_for(f"{TEXTS}.length === 10")
    assert browser.run("document.activeElement.closest('.chart').dataset.metric") == "reward"
    browser.press("ArrowLeft")
    assert text_of(browser, "[data-metric=reward] .now") == "0.59 at 59"
    assert browser.problems == []


@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_nothing_in_a_served_page(browser, training, width):
    training.make_step(1)
    training.make_step(20)
    browser.open(training.serve(), width=width, dark=width == 390)
    training.make_step(40)
    browser.wait_for("document.getElementById('by-step').value === '40'")
    assert violations(browser) == []
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_marked_text_is_not_taken_away(browser, training):
    training.make_step(1)
    training.make_step(20)
    browser.open(training.serve())
    browser.enter("by-step", "all")
    browser.run("getSelection().selectAllChildren(document.querySelectorAll('.t')[1])")
    marked = browser.run("getSelection().toString()")
    training.make_step(40)
    browser.wait_for(STEPS.format(40))
    assert browser.run("getSelection().toString()") == marked
    browser.run("getSelection().removeAllRanges()")
    training.make_step(60)
    browser.wait_for(f"{TEXTS}.length === 8")


def test_it_begins_before_the_run_and_survives_its_server(browser, training):
    address = training.serve()
    browser.open(address)
    assert "Nothing is logged yet" in text_of(browser, "#notes")
    training.make_step(1, *HOSTILE[:2])
    browser.wait_for("document.querySelectorAll('.card').length === 2")
    assert browser.run(TEXTS) == HOSTILE[:2]
    assert browser.run("document.querySelectorAll('img, iframe, script:not(#data)').length") == 1
    assert "Nothing is logged" not in text_of(browser, "#notes")
    assert browser.problems == []
    training.end()
    browser.wait_for("document.getElementById('live-problem').textContent.includes('does not answer')")
    training.make_step(20)
    assert training.serve(port=int(address.split(":")[-1].strip("/"))) == address
    browser.wait_for("document.querySelector('[data-metric=reward] .now')?.textContent === '0.2'")
    assert text_of(browser, "#live-problem") == ""
    assert all("net::ERR_" in problem for problem in browser.problems)
