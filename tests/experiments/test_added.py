"""`--add`: what is committed stays as it is, what is missing is computed and written beside it."""

import json

import pytest

from experiments import command
from experiments.added import held, is_timed, merged
from experiments.command import Experiment
from experiments.harness import Cell

PLAN = [Cell(variant, rule, seed) for variant in ("easy", "hard") for rule in ("a", "b") for seed in range(2)]
FORMS = ("cells", "named cells", "rules")


def made_up(form, results_file):
    """An experiment of ten lines whose result is the number of its cell, in each form that results are committed in."""

    def summarize(outcome):
        numbers = {cell: result["number"] for cell, result in outcome.results.items()}
        if form == "rules":
            rules = {}
            for cell, number in numbers.items():
                rules.setdefault(cell.variant, {}).setdefault(cell.rule, {"seeds": {}})["seeds"][str(cell.seed)] = (
                    number
                )
            return {"record": outcome.record, "variants": {name: {"why": name} for name in rules}, "rules": rules}
        rows = [
            {"cell": name(cell), "number": number}
            if form == "cells"
            else {"variant": cell.variant, "rule": cell.rule, "seed": cell.seed, "number": number}
            for cell, number in numbers.items()
        ]
        return {"record": outcome.record, "cells": rows}

    return Experiment(
        name="made-up",
        description="",
        results=results_file,
        seeds=range(2),
        reduced_seeds=1,
        plan=lambda seeds, reduced: [cell for cell in PLAN if cell.seed in seeds],
        run=numbered,
        settings=lambda cell, reduced: {"cell": name(cell)},
        summarize=summarize,
        draw=lambda results, folder: None,
    )


def name(cell):
    return [cell.variant, cell.rule, cell.seed]


def numbered(cells, settings):
    return [{"number": 10 + PLAN.index(cell)} for cell in cells]


def numbers_of(results):
    if "rules" in results:
        return {
            Cell(variant, rule, int(seed)): number
            for variant, rules in results["rules"].items()
            for rule, entry in rules.items()
            for seed, number in entry["seeds"].items()
        }
    return {Cell(*(row["cell"] if "cell" in row else (row["variant"], row["rule"], row["seed"]))): row["number"]
            for row in results["cells"]}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_missing_is_added_and_the_rest_is_not_computed_again(form, tmp_path, capsys):
    experiment = made_up(form, tmp_path / "results.json")

    def call(*arguments):
        quiet = ["--quiet", "--workers", "0", "--cache", str(tmp_path / f"cache{len(arguments)}")]
        assert command.main(experiment, [*arguments, *quiet]) == 0
        return json.loads(experiment.results.read_text())

    whole = call()
    assert numbers_of(whole) == {cell: 10 + place for place, cell in enumerate(PLAN)}
    # Rule b is lost, rule a was made on another machine by other code, and there is one that is no longer planned.
    old = json.loads(json.dumps(whole))
    if form == "rules":
        for rules in old["rules"].values():
            del rules["b"]
            rules["gone"] = rules["a"]
            rules["a"] = {"seeds": {seed: -number for seed, number in rules["a"]["seeds"].items()}}
    else:
        old["cells"] = [row | {"number": -row["number"]} for row in old["cells"] if numbers_rule(row) == "a"]
    old["record"]["made"] = {
        "first": "2020-01-01T00:00Z", "last": "2020-01-02T00:00Z", "machines": ["another"], "python": ["3.9"],
        "versions": {"torch": ["1.0"]},
    }  # fmt: skip
    old["record"]["cpu_seconds"] = 1000.0
    experiment.results.write_text(json.dumps(old))
    added = call("--add")
    expected = {cell: (10 + place) * (1 if cell.rule == "b" else -1) for place, cell in enumerate(PLAN)}
    assert numbers_of(added) == expected
    record = added["record"]
    assert not is_timed(whole["record"] | {"cells_computed_by_this_command": 7})
    assert record["cells_timed"] == 12  # of 8: a cell that is computed again took its time twice
    assert is_timed(record)
    assert record["wall_seconds"] >= whole["record"]["wall_seconds"]
    assert record["cells_computed_by_this_command"] == 4
    assert (record["cells"], record["cells_missing"]) == (8, 0)
    assert record["cpu_seconds"] >= 1000.0
    assert record["made"]["first"] == "2020-01-01T00:00Z"
    assert record["made"]["last"] >= whole["record"]["made"]["last"]  # a minute may have ended between the two
    assert "another" in record["made"]["machines"]
    assert len(record["made"]["machines"]) == 2
    assert "1.0" in record["made"]["versions"]["torch"]
    assert list(added.get("variants", {})) == list(whole.get("variants", {}))
    call("--add", "--rules", "a")
    assert "nothing to add" in capsys.readouterr().err
    assert json.loads(experiment.results.read_text()) == added


def numbers_rule(row):
    return row["cell"][1] if "cell" in row else row["rule"]


def test_a_rule_that_lacks_a_seed_is_computed_whole_where_seeds_are_averaged():
    results = {"rules": {"easy": {"a": {"seeds": {"0": 1}}, "b": {"seeds": {"0": 1, "1": 1}}}}}
    assert held(results, PLAN) == {Cell("easy", "b", 0), Cell("easy", "b", 1)}
    rows = {"cells": [{"cell": ["easy", "a", 0]}, {"cell": ["easy", "a", 7]}]}
    assert held(rows, PLAN) == {Cell("easy", "a", 0)}


def test_what_is_still_missing_is_counted():
    record = {"date": "d", "machine": "m", "python": "3", "versions": {}, "cpu_seconds": 1.0, "wall_seconds": 1.0}
    record |= {"cells": 1, "cells_computed_by_this_command": 1}
    one, other = ({"record": record, "cells": [{"cell": name(cell)}]} for cell in PLAN[:2])
    assert merged(one, other, PLAN)["record"]["cells_missing"] == len(PLAN) - 2


def test_a_reduced_run_is_not_added(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.parse_options(made_up("cells", tmp_path / "results.json"), ["--add", "--reduced"])
    assert "--reduced" in capsys.readouterr().err
