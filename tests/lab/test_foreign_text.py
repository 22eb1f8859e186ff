"""Text of others: whatever it is, it commands no terminal and can be printed."""

import ast
import io
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import dgpo.lab
from dgpo.lab.cli.main import main
from dgpo.lab.evaluation.compare import Comparison
from dgpo.lab.evaluation.intervals import Estimate
from dgpo.lab.evaluation.tables import print_comparison, print_result
from dgpo.lab.foreign_text import say, visible
from dgpo.lab.progress import Progress, track

HOSTILE = "a[/b][bold] :smile: \x1b]52;c;ZXZpbA==\x07\x1b[2J\u202egnp\ud800"
SHOWN = "a[/b][bold] :smile: ␛]52;c;ZXZpbA==␇␛[2JU+202EgnpU+D800"


@given(st.text(alphabet=st.characters(codec=None)))
def test_what_is_printed_can_be_seen(text):
    shown = visible(text)
    shown.encode()  # no lone surrogate
    categories = {unicodedata.category(char) for char in shown if char != "\u200d"}
    assert categories.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/bold]", "plain [bold]text[/bold]"),
        ("\x1b]0;title\x07\x9b2J", "␛]0;title␇U+009B2J"),
        ("a\r\nb\tc\x7f", "a␍↵b⇥c␡"),
        ("\u202egnp.exe\u2066", "U+202Egnp.exeU+2066"),
        ("\ud83d", "U+D83D"),
        ("a\u034fb\u3164\U000e0041\U000e0101", "aU+034FbU+3164U+E0041U+E0101"),
        ("👩‍👩‍👧 a\u200db", "👩‍👩‍👧 aU+200Db"),
        ("❤\ufe0f é ✓ שלום", "❤ é ✓ שלום"),
        ("\u00a0\u2003", "U+00A0U+2003"),
    ],
    ids=ascii,
)
def test_signs(text, shown):
    assert visible(text) == shown


def terminal():
    """A console that believes to be a terminal."""
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=300)


def test_a_hostile_name_is_printed_as_it_is_written(capsys):
    say(f"runs/{HOSTILE}\nnext line")
    assert capsys.readouterr().out == f"runs/{SHOWN}\nnext line\n"
    console = terminal()
    Progress(console=console).say(HOSTILE)
    assert console.file.getvalue() == SHOWN + "\n"


def test_a_stream_without_the_signs_gets_their_numbers():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say(HOSTILE, stream)
    assert b"\\u241b]52;c;ZXZpbA==\\u2407" in stream.buffer.getvalue()


def test_a_progress_bar_takes_names_for_no_markup(monkeypatch):
    console = terminal()
    monkeypatch.setattr("dgpo.lab.progress.Console", lambda **_: console)
    assert list(track([1, 2], f"reading {HOSTILE}")) == [1, 2]
    assert SHOWN in console.file.getvalue()
    assert "\x1b]52" not in console.file.getvalue()


def test_a_comparison_of_hostile_names():
    estimate = Estimate(0.1, 0.0, 0.2)
    comparison = Comparison(f"[/A]{HOSTILE}", "[/B]", {"[/avg]": estimate}, [(HOSTILE, 0.0, 1.0)], HOSTILE)
    console = terminal()
    print_comparison(comparison, console)
    assert f"[/A]{SHOWN}" in console.file.getvalue()
    assert console.file.getvalue().count(SHOWN) == 3
    assert "[/avg]" in console.file.getvalue()
    assert "\x1b]" not in console.file.getvalue()


def test_a_result_of_hostile_names():
    settings = {"task": HOSTILE, "protocol": "[/p]", "temperature": "[/t]", "top_p": 1.0, "max_tokens": 3}
    metrics = {"[/avg]": {"value": 0.5, "low": 0.1, "high": 0.9}}
    facts = {"samples_per_problem": 1, "problems": 2, "unscored_problems": 1, "outcomes": {HOSTILE: 3}}
    console = terminal()
    print_result({"settings": settings, "metrics": metrics, **facts}, console)
    assert console.file.getvalue().count(SHOWN) == 2
    assert "[/avg]" in console.file.getvalue()


def test_keys_and_folders_of_a_recipe_reach_the_terminal_visibly(tmp_path, capsys):
    recipe = tmp_path / "[b]\u202e.yaml"
    recipe.write_text('"a[/b]\\e]52;c;AA\\u202E": 1\n')
    assert main(["train", str(recipe), "--\x1b[2J", "1", "--output_dir", HOSTILE]) == 2
    error = capsys.readouterr().err
    assert "[b]U+202E.yaml:1: unknown key 'a[/b]␛]52;c;AAU+202E'" in error
    assert "\x1b" not in error


def test_a_plan_with_hostile_values_is_a_recipe_of_the_same_values(tmp_path, capsys):
    from dgpo.lab import yaml12

    recipe = tmp_path / "r.yaml"
    recipe.write_text("task: forks\nmodel_name_or_path: forks\nbf16: false\n")
    folder = str(tmp_path / "lr[x] :smile: \x1b[2J\u202e")
    assert main(["train", str(recipe), "--dry-run", "--output_dir", folder]) == 0
    printed = capsys.readouterr().out
    assert yaml12.load(printed)["output_dir"] == folder
    assert "\x1b" not in printed
    assert "\u202e" not in printed


def test_the_log_of_a_run_is_visible(capsys):
    from dgpo.lab.quiet import _show_own_warnings

    logging.getLogger("dgpo").handlers.clear()
    _show_own_warnings()
    logging.getLogger("dgpo.any").warning("the folder %s", HOSTILE)
    assert capsys.readouterr().err == f"Note: the folder {SHOWN}\n"


def test_the_workbench_prints_through_one_function():
    # Texts of the command line's own are printed as they are.
    printing = {
        file.name
        for file in Path(dgpo.lab.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"foreign_text.py", "main.py", "commands.py"}
