import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.harness import ROOT, Cell, run_cells
from experiments.provenance import write_json
from experiments.report import record_line


def squares(cells, settings):
    """Results that show which call computed a cell; a file in the folder of the settings counts the calls."""
    for cell, options in zip(cells, settings, strict=True):
        Path(options["calls"], f"{cell.rule}-{cell.seed}-{len(list(Path(options['calls']).iterdir()))}").touch()
        if cell.rule == "raises":
            raise ValueError("rule that fails")
        if cell.rule == "dies":
            os._exit(1)
    return [{"square": cell.seed**2, "batch": len(cells)} for cell in cells]


def fails(cells, settings):
    raise ValueError("rule that fails")


def sleeps(cells, settings):
    """A cell that takes longer than any test; it says which process computes it."""
    Path(settings[0]["calls"], str(os.getpid())).touch()
    time.sleep(600)


@pytest.fixture
def run(tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()

    def run(cells, extra=0, function=squares, **options):
        settings = lambda cell: {"calls": str(calls), "extra": extra}  # noqa: E731
        options = {"workers": 0, "cache": tmp_path / "cache", "quiet": True} | options
        outcome = run_cells("squares", cells, function, settings, **options)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cell_that_fails_when_computed_again_has_failed_though_an_older_result_lies_there(run, workers):
    assert run(GRID)[0].failures == {}
    outcome, _ = run(GRID, function=fails, fresh=True, workers=workers)
    assert outcome.failures == dict.fromkeys(GRID, "ValueError: rule that fails")
    assert outcome.results == {}


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes under /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_harness as here\n"
        "from experiments.harness import Cell, run_cells\n"
        "if __name__ == '__main__':\n"
        "    cells = [Cell('v', 'r', seed) for seed in range(2)]\n"
        "    settings = lambda cell: {'calls': sys.argv[2]}\n"
        "    run_cells('sleeps', cells, here.sleeps, settings, cache=here.Path(sys.argv[2], 'cache'), quiet=True)\n"
    )
    script, calls = tmp_path / "program.py", tmp_path / "calls"
    script.write_text(program)
    calls.mkdir()
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(calls)], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        deadline = time.monotonic() + 90
        while len(workers := [int(file.name) for file in calls.iterdir() if file.name.isdigit()]) < 2:
            assert parent.poll() is None
            assert time.monotonic() < deadline, "the workers did not start"
            time.sleep(0.1)
        assert all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.1)


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


def test_cells_keep_when_and_on_what_they_were_made(run, tmp_path):
    run(GRID[:2])
    older = sorted((tmp_path / "cache").rglob("*.json"))[0]
    cell_file = json.loads(older.read_text())
    assert {"date", "machine", "python", "versions"} <= cell_file["made"].keys()
    cell_file["made"] |= {"date": "2001-01-01T00:00Z", "machine": "an abacus", "versions": {"torch": "0.1"}}
    older.write_text(json.dumps(cell_file))
    record = run(GRID)[0].record
    made = record["made"]
    assert (made["first"], made["last"] >= record["date"]) == ("2001-01-01T00:00Z", True)
    assert made["machines"] == sorted(["an abacus", record["machine"]])
    assert made["versions"]["torch"] == sorted(["0.1", record["versions"]["torch"]])
    line = record_line(record)
    assert all(text in line for text in ("2001-01-01T00:00Z to ", "an abacus", "torch 0.1 and "))


def test_results_have_no_nan_and_five_digits(tmp_path):
    path = tmp_path / "folder" / "results.json"
    write_json(path, {"a": [float("nan"), 1 / 3, 1e-9 / 3], "b": 2})
    assert json.loads(path.read_text()) == {"a": [None, 0.33333, 3.3333e-10], "b": 2}
    assert [child.name for child in path.parent.iterdir()] == ["results.json"]
