"""Options of the experiments: which seeds, and where results may go."""

from pathlib import Path

import pytest

from experiments._harness import Cell, Outcome
from experiments._options import argument_parser, folder_of_results, parse_seeds

PLAN = [Cell("task", rule, seed) for rule in ("a", "b") for seed in range(2)]
COMMITTED = Path("committed")


def folder(cells, *arguments):
    options = argument_parser("", seeds="0-1").parse_args(arguments)
    return folder_of_results(options, PLAN, Outcome(results={cell: {} for cell in cells}), COMMITTED)


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
