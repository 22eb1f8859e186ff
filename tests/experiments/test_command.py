"""The commands of the experiments: their options, what they compute, and what they leave alone."""

import importlib
from pathlib import Path

import pytest

from experiments import command, page
from experiments.command import Experiment, folder_of_results, parse_options, parse_seeds
from experiments.harness import Cell, Outcome

PLAN = [Cell("task", rule, seed) for rule in ("a", "b") for seed in range(2)]
COMMITTED = Path("committed")
MADE_UP = Experiment(
    name="made-up",
    description="",
    results=COMMITTED / "results.json",
    seeds=range(2),
    reduced_seeds=1,
    plan=lambda seeds, reduced: [cell for cell in PLAN if cell.seed in seeds],
    run=None,
    settings=None,
    summarize=None,
    draw=None,
)


def folder(cells, *arguments):
    outcome = Outcome(results={cell: {} for cell in cells})
    return folder_of_results(parse_options(MADE_UP, arguments), MADE_UP, outcome)


def test_the_whole_plan_replaces_the_committed_results(capsys):
    assert folder(PLAN) == COMMITTED
    assert folder(PLAN, "--seeds", "2") == COMMITTED
    assert folder([*PLAN, Cell("task", "a", 9)]) == COMMITTED
    assert capsys.readouterr().err == ""


def test_a_part_leaves_them_as_they_are_and_says_so(capsys):
    assert folder(PLAN[:3], "--seeds", "1") is None
    assert "1 cells of the full experiment" in capsys.readouterr().err
    assert folder(PLAN, "--reduced") is None
    assert folder([]) is None


def test_a_part_can_be_written_elsewhere():
    assert folder(PLAN[:3], "--out", "mine") == Path("mine")
    assert folder(PLAN, "--reduced", "--out", "mine") == Path("mine")


def test_seeds_are_a_number_a_range_or_a_list():
    assert [parse_seeds(text) for text in ("2", "3-5", "4,1", "7,")] == [(0, 1), (3, 4, 5), (4, 1), (7,)]
    for text in ("x", "5-3", "0", ","):
        with pytest.raises(Exception, match="names no seeds"):
            parse_seeds(text)


# The one that is left out measures questions and has no cells.
@pytest.fixture(params=[name for name in page.EXPERIMENTS if name != "value_ground_truth"])
def recorded(request, monkeypatch):
    """Runs an experiment's command; instead of computing cells it takes down what it was asked for."""
    experiment = importlib.import_module(f"experiments.{request.param}.__main__").EXPERIMENT
    asked = {}

    def run_cells(name, cells, run, settings, **options):
        asked.update(options, cells=list(cells))
        return Outcome(results={cell: {} for cell in asked["cells"]} if options["compute"] else {})

    def call(*arguments):
        return command.main(experiment, arguments)

    monkeypatch.setattr(command, "run_cells", run_cells)
    return call, asked, experiment


def test_no_compute_computes_nothing_and_leaves_the_committed_results(recorded, tmp_path, capsys):
    call, asked, experiment = recorded
    before = experiment.results.read_bytes()
    assert call("--no-compute", "--cache", str(tmp_path)) == 0
    assert (asked["compute"], asked["cache"]) == (False, tmp_path)
    assert "committed results stay as they are" in capsys.readouterr().err
    assert experiment.results.read_bytes() == before


def test_a_part_leaves_the_committed_results(recorded, capsys):
    call, asked, experiment = recorded
    before = experiment.results.read_bytes()
    assert call("--seeds", "1") == 0
    assert {cell.seed for cell in asked["cells"]} == {0}
    assert "committed results stay as they are" in capsys.readouterr().err
    assert experiment.results.read_bytes() == before


def test_fresh_makes_the_models_again_and_only_those_of_this_cache(recorded, tmp_path):
    call, _, experiment = recorded
    if not experiment.makes_models:
        pytest.skip("its model is not made here")
    model = tmp_path / experiment.name / "models" / "one.pt"
    model.parent.mkdir(parents=True)
    model.touch()
    call("--seeds", "1", "--cache", str(tmp_path))
    assert model.exists()
    call("--seeds", "1", "--cache", str(tmp_path), "--fresh", "--no-compute")
    assert model.exists()
    call("--seeds", "1", "--cache", str(tmp_path), "--fresh")
    assert not model.exists()


def test_every_name_that_is_planned_can_be_chosen_whatever_commas_it_has(recorded):
    _, _, experiment = recorded
    cells = list(experiment.plan(experiment.seeds, False))
    for attribute in ("variant", "rule"):
        names = sorted({getattr(cell, attribute) for cell in cells})
        for name in names:
            found = command._chosen(cells, attribute, name)
            assert {getattr(cell, attribute) for cell in found} == {name}
        for comma in (",", ", "):
            assert command._chosen(cells, attribute, comma.join(names)) == set(cells)


def test_a_name_that_is_not_planned_is_refused_with_the_nearest(recorded):
    call, asked, experiment = recorded
    first = next(iter(experiment.plan(experiment.seeds, False)))
    assert call("--variants", first.variant, "--rules", first.rule) == 0
    assert {(cell.variant, cell.rule) for cell in asked["cells"]} == {(first.variant, first.rule)}
    with pytest.raises(SystemExit, match=f"No rule '{first.rule}x' is planned. Did you mean '{first.rule}'?"):
        call("--rules", f"{first.rule}x")
