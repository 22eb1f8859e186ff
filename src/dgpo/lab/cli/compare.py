"""`dgpo compare A B [...]`: is B better than A, problem by problem, and is that more than chance?"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgpo.errors import DataError, RecipeError

# What two evaluations should have in common for their difference to be one of the models.
_SHOULD_AGREE = (
    "protocol",
    "temperature",
    "top_p",
    "max_tokens",
    "prompt_template",
    "answer_format",
    "backend",
    "task_args",
)
_SHOWN = 40


def compare(words: Sequence[str]) -> int:
    """Compare evaluations with the first of them, and return the exit code.

    Args:
        words: The words after `dgpo compare`: folders that `dgpo eval` wrote, `--output FILE.json`, `--plot FILE.png`.

    Returns:
        0.

    Raises:
        DgpoError: If a folder holds no complete evaluation, or the problems differ.
    """
    folders, targets = _sort(words)
    _check_targets(targets)
    if len(folders) < 2:
        raise RecipeError("dgpo compare needs two evaluations or more: `dgpo compare evals/A evals/B`.")
    from rich.console import Console

    from dgpo.lab.evaluation.compare import check_asked
    from dgpo.lab.evaluation.compare import compare as compare_samples
    from dgpo.lab.evaluation.records import EvaluationDirectory

    console = Console(highlight=False, soft_wrap=True)
    opened = [EvaluationDirectory(Path(folder).expanduser()) for folder in folders]
    samples = [directory.read_samples() for directory in opened]
    asked = [directory.read_asked() for directory in opened]
    settings = [directory.read_settings() or {} for directory in opened]
    names = _names(folders, settings)
    found = []
    for index in range(1, len(folders)):
        pair = (names[0], names[index])
        _refuse_other_task(settings[0], settings[index], *pair)
        unchecked = check_asked(asked[0], asked[index], pair)
        comparison = compare_samples(samples[0], samples[index], names=pair)
        found.append(comparison)
        _print(comparison, console)
        for line in (*comparison.notes, unchecked, *_disagreements(settings[0], settings[index])):
            if line:
                console.print(f"Note: {line}", markup=False)
    if "--output" in targets:
        content = [asdict(comparison) for comparison in found]
        Path(targets["--output"]).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if "--plot" in targets:
        from dgpo.lab.evaluation.plots import draw_pass_at_k

        results = {name: directory.read_result() for name, directory in zip(names, opened, strict=True)}
        draw_pass_at_k(results, str(settings[0].get("task")), Path(targets["--plot"]))
    return 0


def _sort(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    folders: list[str] = []
    targets: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            folders.append(word)
        elif name not in ("--output", "--plot"):
            raise RecipeError(f"dgpo compare has no option {name}; it has --output FILE.json and --plot FILE.png.")
        elif not equals and not rest:
            raise RecipeError(f"{name} needs a file.")
        else:
            targets[name] = value if equals else rest.pop(0)
    return folders, targets


def _check_targets(targets: dict[str, str]) -> None:
    """Refuse files that cannot be written before any work is done."""
    from matplotlib.backend_bases import FigureCanvasBase

    for name, target in targets.items():
        path = Path(target)
        if path.is_dir() or not path.parent.is_dir():
            raise RecipeError(
                f"{name} {target} cannot be written: there is no folder {path.parent}, or it is one itself."
            )
    suffix = Path(targets.get("--plot", "a.png")).suffix[1:].lower()
    if suffix not in (formats := FigureCanvasBase.get_supported_filetypes()):
        raise RecipeError(f"--plot {targets['--plot']}: a picture ends in one of .{', .'.join(sorted(formats))}.")


def _names(folders: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    """The models' names, or the folders' where those are the same."""
    models = [str(found.get("model")) for found in settings]
    if len(set(models)) == len(models):
        return models
    tails = [Path(folder).name for folder in folders]
    return tails if len(set(tails)) == len(tails) else list(folders)


def _refuse_other_task(first: dict[str, Any], second: dict[str, Any], a: str, b: str) -> None:
    if first.get("task") != second.get("task"):
        raise DataError(f"{a} was evaluated on {first.get('task')}, {b} on {second.get('task')}; compare one task.")


def _disagreements(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    lines = [
        f"{key} differs: {str(first.get(key))[:60]!r} and {str(second.get(key))[:60]!r}; the difference is not of the "
        "models alone."
        for key in _SHOULD_AGREE
        if first.get(key) != second.get(key)
    ]
    return lines


def _print(comparison: Any, console: Any) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("problem", comparison.first, comparison.second, "difference"):
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    ordered = sorted(comparison.problems, key=lambda row: row[1] - row[2])
    shown = ordered if len(ordered) <= _SHOWN else [*ordered[: _SHOWN // 2], *ordered[-_SHOWN // 2 :]]
    for index, (name, a, b) in enumerate(shown):
        if len(shown) < len(ordered) and index == _SHOWN // 2:
            table.add_row(f"... {len(ordered) - len(shown)} more", "", "", "")
        table.add_row(name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}")
    console.print(table)
    figures = Table(box=None, pad_edge=False)
    for heading in ("", "difference", "95 % interval"):
        figures.add_column(heading, justify="right" if heading else "left")
    for name, found in comparison.differences.items():
        k = int(name[5:]) if name.startswith("pass@") else 1
        if k & (k - 1):
            continue
        scale = 1 if name == "tokens" else 100
        ends = [f"{scale * end:+.1f}" if end is not None else "?" for end in (found.low, found.high)]
        figures.add_row(name, f"{scale * found.value:+.1f}", f"{ends[0]} to {ends[1]}")
    console.print(figures)
    console.print(comparison.verdict, markup=False)
