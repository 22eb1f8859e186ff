"""What the runs of a page differ in: settings, labels, seeds."""

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from dgpo.lab.runs.reader import Run

_OPTION = "credit_options."
_MOST_LABELLED = 3  # settings in the label of a run
_NO_SETTING = re.compile(r"output_dir|run_name|started|device|platform|num_(processes|threads)|.* \(version\)")

_FIGURE = re.compile(r"(-?\d+(?:\.\d+)?)(?: \(.*\))?")  # a number, maybe with its interval


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return what runs differ in, settings first, with one value a run; a value that is not there is a dash."""
    names = sorted(dict.fromkeys(name for run in runs for name in run.config), key=lambda name: not _is_setting(name))
    rows = [(name, [as_text(run.config.get(name)) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run, made of the settings in which they differ.

    Args:
        runs: One run, or several side by side.

    Returns:
        Different names: those of the runs themselves, where the settings alone cannot tell them apart.

    Example:
        >>> run_labels([Run("a-20260508", config={"tau": 0.5}), Run("a-20260509", config={"tau": 0.05})])
        ['tau 0.5', 'tau 0.05']
    """
    rows = [(name, values) for name, values in config_differences(runs) if _is_setting(name)]
    rules = [as_text(run.config.get("credit_rule")) for run in runs]
    rows = [(name, values) for name, values in rows if not (name.startswith(_OPTION) and _follows(values, rules))]
    rows.sort(key=lambda row: row[0] != "credit_rule")
    if 0 < len(rows) <= _MOST_LABELLED:
        names = [name.removeprefix(_OPTION).removeprefix("credit_").removesuffix("_name_or_path") for name, _ in rows]
        columns = zip(*(values for _, values in rows), strict=True)
        labels = [", ".join(f"{name} {value}" for name, value in zip(names, column, strict=True)) for column in columns]
        if len(set(labels)) == len(runs):
            return labels
    return [run.name for run in runs]


def _follows(values: Sequence[str], rules: Sequence[str]) -> bool:
    """Whether an option says nothing beside the rule: it differs between rules, and nowhere between runs of one."""
    return len(set(rules)) > 1 and len(set(zip(rules, values, strict=True))) == len(set(rules))


def seed_bands(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return which runs differ in nothing but their seed, so that their curves are drawn as one band.

    Args:
        runs: One run, or several side by side.

    Returns:
        For each setting its `label` and the indices of its `runs`; empty where no setting has several seeds.

    Example:
        >>> runs = [Run(f"{tau} {seed}", config={"tau": tau, "seed": seed}) for tau in (0.5, 1.0) for seed in (0, 1)]
        >>> seed_bands(runs)
        [{'label': 'tau 0.5', 'runs': [0, 1]}, {'label': 'tau 1', 'runs': [2, 3]}]
    """
    members: dict[Any, dict[Any, int]] = {}
    for index, run in enumerate(runs):
        settings = {name: as_text(value) for name, value in run.config.items() if _is_setting(name) and name != "seed"}
        key: Any = tuple(sorted(settings.items()))
        seed = as_text(run.config.get("seed"))
        if "seed" not in run.config or seed in members.get(key, {}):
            key = index  # a seed that is not known, or a repetition
        members.setdefault(key, {})[seed] = index
    if max(map(len, members.values()), default=0) < 2:
        return []
    # By seed, so that the first runs of two settings are of equal seeds.
    bands = [[seeds[seed] for seed in sorted(seeds, key=lambda text: (len(text), text))] for seeds in members.values()]
    if len(bands) == 1:
        return [{"label": f"{len(runs)} seeds", "runs": bands[0]}]
    firsts = [runs[indices[0]] for indices in bands]
    without_seed = [Run(run.name, config={k: v for k, v in run.config.items() if k != "seed"}) for run in firsts]
    return [{"label": label, "runs": band} for label, band in zip(run_labels(without_seed), bands, strict=True)]


def seed_figures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the last figures of runs that differ in their seed alone: the mean, and Student's 95 % interval of it.

    Args:
        runs: The seeds of one setting.

    Returns:
        Name and text of each figure that all of them have and in which they differ. Two seeds have no interval, which
        would be wider than the figure can be, but the figures of both. Empty for fewer than two runs.

    Example:
        >>> runs = [Run(f"{x}", figures={"reward": f"{x} (0.1 to 0.9)"}) for x in (0.5, 0.6, 0.7)]
        >>> seed_figures(runs)    # half the width: t = 4.303, times 0.1 / sqrt(3)
        [('reward', '0.600 (0.352 to 0.848)')]
        >>> seed_figures(runs[:2])
        [('reward', '0.550 (0.500, 0.600)')]
    """
    from dgpo.lab.evaluation.intervals import student_quantile

    if len(runs) < 2:
        return []
    rows = []
    for name in runs[0].figures:
        matches = [_FIGURE.fullmatch(run.figures.get(name, "")) for run in runs]
        values = [float(match[1]) for match in matches if match]
        if len(values) < len(runs) or len(set(values)) == 1:
            continue
        mean = statistics.fmean(values)
        half = student_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = mean - half, mean + half
        if name.startswith("held-out accuracy"):  # a share
            low, high = max(0.0, low), min(1.0, high)
        spread = ", ".join(f"{x:.3f}" for x in values) if len(values) == 2 else f"{low:.3f} to {high:.3f}"
        rows.append((name, f"{mean:.3f} ({spread})"))
    return rows


def _is_setting(name: str) -> bool:
    return not _NO_SETTING.fullmatch(name)


def as_text(value: Any) -> str:
    """Return a setting as text; a dash for None."""
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
