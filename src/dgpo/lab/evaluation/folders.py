"""Comparison of folders that `dgpo eval` wrote: is B better than A, and is that more than chance?"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.lab.foreign_text import say

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


def compare_folders(folders: Sequence[str], *, output: Path | None = None, plot: Path | None = None) -> None:
    """Compare evaluations with the first of them, and print what came of it.

    Args:
        folders: Two folders that `dgpo eval` wrote, or more.
        output: A JSON file for the comparisons.
        plot: A picture of pass@k of all of them.

    Raises:
        ConfigError: If there are fewer than two folders, or a file cannot be written.
        DataError: If a folder holds no complete evaluation, or the problems differ.
    """
    _check_targets({"--output": output, "--plot": plot})
    if len(folders) < 2:
        raise ConfigError("dgpo compare needs two evaluations or more: `dgpo compare evals/A evals/B`.")
    from rich.console import Console

    from dgpo.lab.evaluation.compare import check_same_problems, compare
    from dgpo.lab.evaluation.records import EvaluationDirectory
    from dgpo.lab.evaluation.tables import print_comparison

    console = Console(highlight=False, soft_wrap=True)
    directories = [EvaluationDirectory(Path(folder).expanduser()) for folder in folders]
    samples = [directory.read_samples() for directory in directories]
    identities = [directory.read_identities() for directory in directories]
    settings = [directory.read_settings() or {} for directory in directories]
    names = _names(folders, settings)
    comparisons = []
    for index in range(1, len(folders)):
        pair = (names[0], names[index])
        _refuse_other_task(settings[0], settings[index], *pair)
        unchecked = check_same_problems(identities[0], identities[index], pair)
        comparison = compare(samples[0], samples[index], names=pair)
        comparisons.append(comparison)
        print_comparison(comparison, console)
        for line in (*comparison.notes, unchecked, *_disagreements(settings[0], settings[index])):
            if line:
                say(f"Note: {line}", console)
    if output is not None:
        content = [asdict(comparison) for comparison in comparisons]
        output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot is not None:
        from dgpo.lab.evaluation.plots import draw_pass_at_k

        results = {name: directory.read_result() for name, directory in zip(names, directories, strict=True)}
        draw_pass_at_k(results, str(settings[0].get("task")), plot)


def _check_targets(targets: dict[str, Path | None]) -> None:
    """Refuse files that cannot be written before any work is done."""
    for name, path in targets.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(
                f"{name} {path} cannot be written: there is no folder {path.parent}, or it is one itself."
            )
    plot = targets["--plot"]
    if plot is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        formats = FigureCanvasBase.get_supported_filetypes()
        if plot.suffix[1:].lower() not in formats:
            raise ConfigError(f"--plot {plot}: a picture ends in one of .{', .'.join(sorted(formats))}.")


def _names(folders: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    """The models' names, or the folders' where those are the same."""
    models = [str(each.get("model")) for each in settings]
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
