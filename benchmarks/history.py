"""The ratios of the committed results over time: one CSV, and a figure.

    python benchmarks/history.py    # say how much of benchmarks/results is missing; exit status 1 if anything is
    python benchmarks/history.py --append --plot docs/figures/benchmark-history.png

Ratios alone, of times and of memory: seconds of one machine and day say nothing about those of another. A row is known
by its date, version, benchmark, case and name, so that nothing is appended twice.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _common import RESULTS

HISTORY = RESULTS.parent / "history.csv"
COLUMNS = ("date", "version", "benchmark", "case", "ratio", "value", "processor")
KEY = COLUMNS[:5]
FIGURE = {  # (benchmark, ratio): how the figure calls it
    ("train_step", "seconds, dgpo / grpo_kl_ours"): "time of a step, DGPO / GRPO + KL on our head",
    ("train_step", "seconds, dgpo / grpo_kl_scored"): "time of a step, DGPO / TRL's GRPO + KL, scored positions",
    ("train_step", "allocated, dgpo / grpo_kl_ours"): "memory of a step, DGPO / GRPO + KL on our head",
    ("lm_head", "seconds, DGPO / GRPO + KL"): "time of the head, DGPO / GRPO + KL",
}


def rows_of(result: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the ratios of one result: of a training step, by live share, of memory, and of the head by case."""
    for case, part in result.get("cases", {}).items() if isinstance(result.get("cases"), dict) else ():
        for peer, ratio in part.get("dgpo_over", {}).items() if _is_dated(part) else ():
            yield _row(part, "lm_head", case, f"seconds, DGPO / {peer}", ratio["median"])
    settings = result.get("settings", {})
    if not _is_dated(result):
        return
    case = settings.get("dtype", "")
    for part in result.get("live", ()):
        for peer, ratio in part["dgpo_over"].items():
            if peer != "dgpo":
                yield _row(result, "train_step", f"{case} live {part['share']}", f"seconds, dgpo / {peer}", ratio)
    if "dgpo" in result.get("seconds", {}):
        medians = {name: statistics.median(times) for name, times in result["seconds"].items()}
        yield from _over(result, "train_step", case, "seconds", medians)
    memory = result.get("memory", {case: result} if "settings" in result else {})
    for dtype, peaks in memory.items():
        for kind, name in (("peak_mib", "resident"), ("allocated_mib", "allocated")):
            if kind in peaks:
                yield from _over(result, "train_step", dtype, name, peaks[kind])


def _is_dated(result: Mapping[str, Any]) -> bool:
    """Return whether a result says when, where and of which version it is; the first ones did not."""
    machine = result.get("machine")
    return isinstance(machine, dict) and "versions" in machine and bool(machine.get("date"))


def _over(result: Any, benchmark: str, case: str, what: str, values: Mapping[str, float]) -> Iterator[dict[str, str]]:
    for peer, value in values.items():
        if peer != "dgpo":
            yield _row(result, benchmark, case, f"{what}, dgpo / {peer}", values["dgpo"] / value)


def _row(result: Mapping[str, Any], benchmark: str, case: str, ratio: str, value: float) -> dict[str, str]:
    machine = result["machine"]
    facts = (machine["date"], machine["versions"]["dgpo"], benchmark, case, ratio, f"{value:.3g}", machine["processor"])
    return dict(zip(COLUMNS, facts, strict=True))


def read() -> list[dict[str, str]]:
    """Return the rows of the history."""
    with HISTORY.open(newline="") as file:
        return list(csv.DictReader(file))


def missing() -> list[dict[str, str]]:
    """Return the ratios of the committed results that the history lacks, ordered by date."""
    seen = {tuple(row[name] for name in KEY) for row in read()}
    rows = (row for path in sorted(RESULTS.glob("*.json")) for row in rows_of(json.loads(path.read_text())))
    return sorted((row for row in rows if tuple(row[name] for name in KEY) not in seen), key=lambda row: row["date"])


def append(rows: list[dict[str, str]]) -> None:
    """Append rows to the history."""
    with HISTORY.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerows(rows)


def plot(path: Path) -> None:
    """Draw the ratios of `FIGURE` over the dates, each case a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = read()
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), constrained_layout=True)
    for axis, ((benchmark, ratio), title) in zip(axes.flat, FIGURE.items(), strict=True):
        mine = [row for row in rows if (row["benchmark"], row["ratio"]) == (benchmark, ratio)]
        for case in dict.fromkeys(row["case"] for row in mine):
            of_case = sorted((row for row in mine if row["case"] == case), key=lambda row: row["date"])
            label = f"{case} ({of_case[-1]['version']})"
            axis.plot([row["date"] for row in of_case], [float(row["value"]) for row in of_case], "o-", label=label)
        axis.axhline(1.0, color="grey", linewidth=0.5)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        if mine:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--append", action="store_true", help="append them")
    parser.add_argument("--plot", type=Path, help="draw the history")
    options = parser.parse_args()
    rows = missing()
    print(f"{HISTORY.name}: {len(rows)} ratios {'appended' if options.append else 'are missing'}")
    if options.append:
        append(rows)
    if options.plot:
        plot(options.plot)
    return int(bool(rows) and not options.append)


if __name__ == "__main__":
    sys.exit(main())
