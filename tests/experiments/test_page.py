import pytest

from experiments import page
from experiments._report import ROOT


def test_results_md_is_what_the_committed_results_give():
    assert page.PAGE.read_text() == page.page(), "run `python -m experiments.page`"


def test_the_page_names_every_experiment_figure_and_command():
    text = page.page()
    for name, command in page.EXPERIMENTS.items():
        assert name in text
        assert command.split(" && ")[-1] in text
    figures = {line.partition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert figures
    for figure in figures:
        path = ROOT / "docs" / figure
        assert path.is_file(), f"{figure} is missing"
        assert path.stat().st_size < 200_000, f"{figure} is {path.stat().st_size} bytes"


def test_an_experiment_without_results_is_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(page, "ROOT", tmp_path)
    text = page.page()
    for command in page.EXPERIMENTS.values():
        assert f"Not run yet: `{command}`." in text


def test_check_fails_on_a_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    stale = tmp_path / "results.md"
    stale.write_text("old\n")
    monkeypatch.setattr(page, "PAGE", stale)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    assert page.main(["--check"]) == 1
    assert "python -m experiments.page" in capsys.readouterr().err
    assert stale.read_text() == "old\n"
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0


@pytest.mark.parametrize("word", ["supported", "not supported", "not testable at this size"])
def test_the_table_counts_its_verdicts(word):
    text = page.page()
    rows = [line for line in text.splitlines() if line.startswith("| ") and f"| **{word}** |" in line]
    counted = next(line for line in text.splitlines() if line.startswith("Of "))
    assert f" {len(rows)} {word}" in counted
