"""`dgpo.show`: the page in a notebook, which it cannot reach."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import text_of
from hostile import HOSTILE

import dgpo
from dgpo.credit_log import CreditLog
from dgpo.errors import DataError


@pytest.fixture
def run(tmp_path, settings, completion):
    pair = [completion(*HOSTILE, group=0, advantage=a, prompt="".join(HOSTILE)) for a in (1.0, -1.0)]
    for step in (1, 20):
        CreditLog(tmp_path / "run", settings).write(step, pair)
    return tmp_path / "run"


def test_a_run_and_a_trainer_are_shown(run):
    trainer = SimpleNamespace(args=SimpleNamespace(output_dir=str(run)))
    for shown in (dgpo.show(run), dgpo.show(str(run)), dgpo.show(trainer)):
        assert repr(shown) == "<the credit of run (2 logged steps); a notebook shows the page>"
    assert re.fullmatch(r"<iframe [^<>]*></iframe>", dgpo.show(run, height=300)._repr_html_())


def test_what_cannot_be_shown_is_named(run):
    with pytest.raises(DataError, match="/nowhere: there is no such directory"):
        dgpo.show("/nowhere")
    with pytest.raises(ValueError, match="height=9: nothing can be seen"):
        dgpo.show(run, height=9)


def test_the_frame_works_and_reaches_nothing(browser, run, tmp_path):
    """As a notebook does it: what `_repr_html_` gives becomes markup of the notebook's page."""
    notebook = tmp_path / "notebook.html"
    ready = "<script>document.documentElement.dataset.ready = 'true'; window.secret = 1</script>"
    notebook.write_text(f"<!doctype html><p>A cell</p>{dgpo.show(run, height=600)._repr_html_()}{ready}", "utf-8")
    browser.open(notebook)
    with browser.inside_frame():
        browser.wait_for("document.documentElement?.dataset.ready === 'true'")
        assert browser.run("origin") == "null"
        assert browser.run("(() => { try { return parent.secret; } catch { return 'closed'; } })()") == "closed"
        spans = "document.querySelectorAll('#cards .tokens')[0].querySelectorAll('.t')"
        assert browser.run(f"[...{spans}].slice(0, 11).map((e) => e.textContent)") == HOSTILE[:11]
        browser.run(f"{spans}[2].focus()")
        assert text_of(browser, "#tip .what code") == HOSTILE[2]
        # No links: they would load the notebook into the frame.
        assert browser.run("document.querySelectorAll('a').length") == 0
        browser.enter("by-step", "1")
        assert browser.run("document.querySelectorAll('.card').length") == 2
    assert browser.problems == []
    assert [Path(url).name for url in browser.requests if not url.startswith("about:")] == ["notebook.html"]
