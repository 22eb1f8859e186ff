"""The directory of one run: what is written there, in which form, and how a resumed run continues it."""

import contextlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from dgpo.credit_log import forget_after
from dgpo.errors import RecipeError
from dgpo.lab.train.recipe import Recipe, dump_values
from dgpo.versions import __version__

RECIPE, ENVIRONMENT, METRICS, SUMMARY = "recipe.yaml", "environment.json", "metrics.jsonl", "summary.json"
COMPLETIONS, FINAL, CURVE, ERROR = "completions", "final", "curve.png", "error.txt"
BEFORE, TRAIN, AFTER = "before", "train", "after"


class RunDirectory:
    """Writes a run's files; every line reaches the operating system at once, so a killed run loses none.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: `step`, `phase`, `wall_seconds` and everything TRL logs."""
        return self.path / METRICS

    def refuse_if_used(self) -> None:
        """Refuse a directory that already holds something, so that no run overwrites another.

        Raises:
            RecipeError: If it is not empty; the message says how to resume.
        """
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        folder = shlex.quote(str(self.path))
        remedy = f"Continue that run with `dgpo train --resume {folder}`, or choose"
        if not any(self.path.glob("checkpoint-*")):
            remedy = "It holds no checkpoint to resume from; delete it, or choose"
        raise RecipeError(f"The run directory {self.path} is not empty. {remedy} another one with --output_dir.")

    def withdraw(self) -> None:
        """Take back a directory in which nothing was measured yet, so that the next try may use it."""
        if self.metrics_path.exists():
            return
        for name in (RECIPE, ENVIRONMENT):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe: every value that differs from its default, and the seed in any case."""
        values = recipe.changed() | {"seed": recipe["seed"]}
        values.pop("output_dir", None)
        head = (
            f"# The recipe of this run, overrides included; what is not listed has the default of dgpo {__version__}\n"
            f"# and the versions in {ENVIRONMENT}. Run it again: dgpo train {RECIPE}\n"
        )
        self._replace(RECIPE, head + dump_values(values))

    def write_environment(self, *, seed: int, num_processes: int, command: list[str], resumed_from: str | None) -> None:
        """Write versions, machine and command; a resumed run adds itself to the list."""
        path = self.path / ENVIRONMENT
        facts = environment(seed=seed, num_processes=num_processes, command=command)
        if resumed_from is not None and path.is_file():
            first = read_json(path) or {}
            first.setdefault("resumed", []).append({"from": resumed_from, **facts})
            facts = first
        self._replace(ENVIRONMENT, json.dumps(facts, indent=2) + "\n")

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def write_completions(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Write the completions of one step, replacing those of an earlier attempt at it."""
        lines = [json.dumps(_finite(row), allow_nan=False, ensure_ascii=False) for row in rows]
        self._replace(f"{COMPLETIONS}/step-{step:06d}.jsonl", "\n".join(lines) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the figures of the run."""
        self._replace(SUMMARY, json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics; a last line that a kill cut off is left out."""
        return read_jsonl(self.metrics_path)

    def cut_to(self, step: int) -> None:
        """Forget what came after a step, as a resumed run does those steps again.

        Args:
            step: The step of the checkpoint that the run continues from.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= step and line.get("phase") != AFTER]
        if self.metrics_path.exists():
            self._replace(METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        for file in (self.path / COMPLETIONS).glob("step-*.jsonl"):
            match = re.fullmatch(r"step-(\d+)\.jsonl", file.name)
            if match and int(match[1]) > step:
                file.unlink()
        forget_after(self.path, step)
        for name in (SUMMARY, CURVE, ERROR):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / FINAL, ignore_errors=True)

    def _replace(self, name: str, text: str) -> None:
        """Write a file whole or not at all: a full disk must not leave half of one."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def default_path(recipe: Recipe) -> Path:
    """Return `runs/<recipe name>-<YYYYmmdd-HHMMSS>`, relative to the working directory."""
    name = recipe.path.stem if recipe.path else "run"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def environment(*, seed: int, num_processes: int, command: list[str]) -> dict[str, Any]:
    """Return what a figure depends on besides the recipe; without the names of users or their home directories."""
    import torch

    versions = {"dgpo": __version__}
    for package in ("torch", "trl", "transformers", "peft", "accelerate", "datasets", "reasoning-gym"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": _anonymous(shlex.join(command)),
        "seed": seed,
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "num_processes": num_processes,
        "num_threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def command_line(arguments: list[str]) -> list[str]:
    """Return the command as a person would type it, without the path of the interpreter's scripts."""
    launched = ["torchrun/accelerate:"] if "RANK" in os.environ else []
    return [*launched, Path(sys.argv[0]).name if Path(sys.argv[0]).name.startswith("dgpo") else "dgpo", *arguments]


def _anonymous(text: str) -> str:
    """Shorten the working directory to `.`, and any other absolute path to its last part: it may name the user."""
    folder = str(Path.cwd())
    if len(folder) > 1:
        text = re.sub(rf"{re.escape(folder)}(?=[/'\" ]|$)", ".", text)
    return re.sub(r"(?<![\w.:/~-])~?/(?:[^/\s'\"]+/)*(?=[^/\s'\"]+)", ".../", text)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or `None` if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; lines that are not whole are left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null. What JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return _finite(value.item()) if hasattr(value, "item") else str(value)
