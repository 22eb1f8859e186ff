"""The commands of the experiments: what they compute, and what they leave alone."""

import importlib

import pytest

from experiments._harness import Outcome

COMMANDS = {"credit": "credit.json", "gradient_stability": "results.json", "smollm2": "results.json"}


@pytest.fixture(params=COMMANDS)
def command(request, monkeypatch):
    """Runs an experiment's command; instead of computing cells it takes down what it was asked for."""
    module = importlib.import_module(f"experiments.{request.param}.__main__")
    results = (
        importlib.import_module(f"experiments.{request.param}").__path__[0] + f"/results/{COMMANDS[request.param]}"
    )
    asked = {}

    def run_cells(name, cells, run, settings, **options):
        asked.update(options, cells=list(cells))
        return Outcome(results={cell: {} for cell in asked["cells"]} if options["compute"] else {})

    def call(*arguments):
        monkeypatch.setattr("sys.argv", [request.param, *arguments])
        return module.main()

    monkeypatch.setattr(module, "run_cells", run_cells)
    return call, asked, results


def test_no_compute_computes_nothing_and_leaves_the_committed_results(command, tmp_path, capsys):
    call, asked, results = command
    with open(results, "rb") as file:
        before = file.read()
    assert call("--no-compute", "--cache", str(tmp_path)) == 0
    assert (asked["compute"], asked["cache"]) == (False, tmp_path)
    assert "committed results stay as they are" in capsys.readouterr().err
    with open(results, "rb") as file:
        assert file.read() == before


def test_a_part_leaves_the_committed_results(command, capsys):
    call, asked, results = command
    with open(results, "rb") as file:
        before = file.read()
    assert call("--seeds", "1") == 0
    assert {cell.seed for cell in asked["cells"]} == {0}
    assert "committed results stay as they are" in capsys.readouterr().err
    with open(results, "rb") as file:
        assert file.read() == before


def test_fresh_makes_the_models_again_and_only_those_of_this_cache(command, tmp_path):
    call, _, results = command
    if results.endswith("smollm2/results/results.json"):
        pytest.skip("its model is not made here")
    name = results.split("/")[-3]
    model = tmp_path / name / "models" / "one.pt"
    model.parent.mkdir(parents=True)
    model.touch()
    call("--seeds", "1", "--cache", str(tmp_path))
    assert model.exists()
    call("--seeds", "1", "--cache", str(tmp_path), "--fresh", "--no-compute")
    assert model.exists()
    call("--seeds", "1", "--cache", str(tmp_path), "--fresh")
    assert not model.exists()
