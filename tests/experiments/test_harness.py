import json
import os
from pathlib import Path

import pytest

from experiments import _harness
from experiments._harness import Cell, parse_seeds, run_cells


def squares(cells, settings):
    """Results that show which call computed a cell; a file in the folder of the settings counts the calls."""
    for cell, options in zip(cells, settings, strict=True):
        Path(options["calls"], f"{cell.rule}-{cell.seed}-{len(list(Path(options['calls']).iterdir()))}").touch()
        if cell.rule == "raises":
            raise ValueError("rule that fails")
        if cell.rule == "dies":
            os._exit(1)
    return [{"square": cell.seed**2, "batch": len(cells)} for cell in cells]


@pytest.fixture
def run(tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()

    def run(cells, extra=0, **options):
        settings = lambda cell: {"calls": str(calls), "extra": extra}  # noqa: E731
        options = {"workers": 0, "cache": tmp_path / "cache", "quiet": True} | options
        outcome = run_cells("squares", cells, squares, settings, **options)
        return outcome, len(list(calls.iterdir()))

    return run


GRID = [Cell("plain", rule, seed) for rule in ("a", "b") for seed in range(3)]


def test_every_cell_is_computed_once_and_then_read(run):
    outcome, calls = run(GRID)
    assert calls == 6
    assert {cell: result["square"] for cell, result in outcome.results.items()} == {c: c.seed**2 for c in GRID}
    again, calls = run([*GRID, Cell("plain", "a", 3)])
    assert calls == 7
    assert len(again.results) == 7
    assert again.record["cells_computed_by_this_command"] == 1


def test_other_settings_are_other_cells_and_fresh_computes_again(run):
    run(GRID)
    assert run(GRID, extra=1)[1] == 12
    assert run(GRID, extra=1, fresh=True)[1] == 18


def test_cells_of_a_batch_are_computed_together_the_missing_ones_alone(run):
    run([GRID[0]])
    outcome, _ = run(GRID, batch=lambda cell: cell.rule)
    assert [outcome.results[cell]["batch"] for cell in GRID] == [1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cell_that_raises_loses_no_other(run, workers):
    bad = Cell("plain", "raises", 0)
    outcome, _ = run([bad, *GRID], workers=workers)
    assert set(outcome.results) == set(GRID)
    assert outcome.failures == {bad: "ValueError: rule that fails"}
    assert outcome.record["failed"] == {"plain/raises/0": "ValueError: rule that fails"}


def test_a_process_that_dies_loses_no_cell_but_its_own(run):
    bad = Cell("plain", "dies", 0)
    outcome, _ = run([GRID[0], bad, *GRID[1:]], workers=2)
    assert set(outcome.results) == set(GRID)
    assert "process died" in outcome.failures[bad]


def test_finished_cells_can_be_read_without_computing_the_others(run):
    run(GRID[:2])
    outcome, calls = run(GRID, compute=False)
    assert calls == 2
    assert set(outcome.results) == set(GRID[:2])
    assert (outcome.record["cells_missing"], outcome.failures) == (4, {})


def test_half_written_files_are_computed_again(run, tmp_path):
    run(GRID)
    path = sorted((tmp_path / "cache").rglob("*.json"))[0]
    path.write_text(path.read_text()[:20])
    outcome, calls = run(GRID)
    assert calls == 7
    assert len(outcome.results) == 6


def test_the_record_names_what_a_committed_figure_must_name(run):
    record = run(GRID)[0].record
    assert {"date", "command", "machine", "python", "versions", "cpu_seconds", "wall_seconds"} <= record.keys()
    assert "torch" in record["versions"]


def test_results_have_no_nan_and_five_digits(tmp_path):
    path = tmp_path / "folder" / "results.json"
    _harness.write_json(path, {"a": [float("nan"), 1 / 3, 1e-9 / 3], "b": 2})
    assert json.loads(path.read_text()) == {"a": [None, 0.33333, 3.3333e-10], "b": 2}
    assert [child.name for child in path.parent.iterdir()] == ["results.json"]


def test_seeds_are_a_number_a_range_or_a_list():
    assert [parse_seeds(text) for text in ("2", "3-5", "4,1", "7,")] == [(0, 1), (3, 4, 5), (4, 1), (7,)]
    for text in ("x", "5-3", "0", ","):
        with pytest.raises(Exception, match="names no seeds"):
            parse_seeds(text)
