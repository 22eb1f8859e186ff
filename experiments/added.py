"""Cells added to the committed results, which keep what they hold: `--add` of every experiment's command."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.harness import Cell
from experiments.provenance import joined, made_of


def held(results: Mapping[str, Any], planned: Iterable[Cell]) -> set[Cell]:
    """Return the planned cells that committed results hold, whatever code made them.

    Where results are averaged over the seeds of a rule, a rule that lacks a planned seed counts as lacking all.

    Args:
        results: Of the experiment.
        planned: All cells of the full experiment.

    Returns:
        The cells.
    """
    planned = set(planned)
    if "cells" in results:
        return {_cell_of(row) for row in results["cells"]} & planned
    by_pair: dict[tuple[str, str], set[Cell]] = {}
    for cell in planned:
        by_pair.setdefault((cell.variant, cell.rule), set()).add(cell)
    there = {
        Cell(variant, rule, int(seed))
        for variant, rules in results["rules"].items()
        for rule, entry in rules.items()
        for seed in entry["seeds"]
    }
    return {cell for cells in by_pair.values() if cells <= there for cell in cells}


def merged(committed: Mapping[str, Any], new: Mapping[str, Any], planned: Sequence[Cell]) -> dict[str, Any]:
    """Return committed results with what was computed besides; what is no longer planned is left out.

    Args:
        committed: The results that there are.
        new: What `Experiment.summarize` gives of the cells that were computed now; they win.
        planned: All cells of the full experiment.

    Returns:
        Results of the same form, with a record of both.
    """
    if "cells" in committed:
        rows = {_cell_of(row): row for row in (*committed["cells"], *new["cells"])}
        whole = {**new, "cells": [rows[cell] for cell in planned if cell in rows]}
    else:
        pairs = {(cell.variant, cell.rule) for cell in planned}
        both = [one["rules"] for one in (committed, new)]
        rules: dict[str, dict[str, Any]] = {}
        for variant, rule in sorted(pairs):
            entries = [one[variant][rule] for one in both if rule in one.get(variant, {})]
            if entries:
                rules.setdefault(variant, {})[rule] = entries[-1]
        variants = committed["variants"] | new["variants"]
        whole = {**new, "variants": {name: variants[name] for name in rules}, "rules": rules}
    count = len(held(whole, planned))
    whole["record"] = _record(committed["record"], new["record"]) | {
        "cells": count,
        "cells_missing": len(set(planned)) - count,
    }
    return whole


def _cell_of(row: Mapping[str, Any]) -> Cell:
    return Cell(*row["cell"]) if "cell" in row else Cell(row["variant"], row["rule"], row["seed"])


def _record(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The record of this command, with the time of both and every machine and version that occurs."""
    seconds = round(before["cpu_seconds"] + now["cpu_seconds"], 1)
    record = {**now, "cpu_seconds": seconds, "made": joined([made_of(before), made_of(now)])}
    if is_timed(before):
        record["wall_seconds"] = round(before["wall_seconds"] + now["wall_seconds"], 1)
        record["cells_timed"] = cells_timed(before) + now["cells_computed_by_this_command"]
    return record


def cells_timed(record: Mapping[str, Any]) -> int:
    """Return how many cells were computed in the `wall_seconds` of a record."""
    return int(record.get("cells_timed", record["cells_computed_by_this_command"]))


def is_timed(record: Mapping[str, Any]) -> bool:
    """Return whether the `wall_seconds` of a record are those of all its cells."""
    return cells_timed(record) >= record["cells"]
