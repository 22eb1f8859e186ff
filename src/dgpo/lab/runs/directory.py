"""Writes the directory of one run, and cuts it back to a checkpoint that a resumed run continues from."""

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import find_checkpoints
from dgpo.credit_log import forget_after
from dgpo.errors import RecipeError
from dgpo.io import write_atomically
from dgpo.lab import yaml12
from dgpo.lab.folder_lock import LOCK, FolderLock, refuse_if_held
from dgpo.lab.runs import files
from dgpo.lab.runs.environment import environment
from dgpo.lab.runs.history import restored
from dgpo.lab.runs.intact import damaged_lines, intact_mapping
from dgpo.versions import __version__

_OF_A_START = frozenset(
    {
        *(files.RECIPE, files.ENVIRONMENT, files.METRICS, files.SUMMARY, files.CURVE, files.ERROR, files.COMPLETIONS),
        *("credit", "failed_rewards.jsonl", "README.md"),
    }
)
_LEFTOVERS = re.compile(rf"{re.escape(LOCK)}|\.probe-.*|.*\.tmp")
_OF_A_STEP = re.compile(r"step-(\d+)\.jsonl(\.gz)?")


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
        return self.path / files.METRICS

    def lock(self) -> FolderLock:
        """Return the lock that keeps every other process from writing here; the directory must exist."""
        return FolderLock(self.path, "dgpo train", self._when_held())

    def refuse_if_used(self) -> None:
        """Refuse a directory that already holds something, so that no run overwrites another.

        Raises:
            RecipeError: If it is not empty; the message says how to resume.
        """
        if not self.path.is_dir() or not any(self._kept()) or self.is_failed_start():
            return
        folder = shlex.quote(str(self.path))
        remedy = f"Continue that run with `dgpo train --resume {folder}`, or choose"
        if find_checkpoints(self.path, quick=True).newest is None:
            remedy = "It holds no checkpoint to resume from; delete it, or choose"
        raise RecipeError(f"The run directory {self.path} is not empty. {remedy} another one with --output_dir.")

    def refuse_if_locked(self) -> None:
        """Raise ConfigError if another process writes here; nothing is changed."""
        refuse_if_held(self.path, self._when_held())

    def _when_held(self) -> str:
        return (
            f"Wait for it, or stop it and then continue with `dgpo train --resume {shlex.quote(str(self.path))}`; or "
            "choose another directory with --output_dir."
        )

    def _kept(self) -> set[str]:
        return {path.name for path in self.path.iterdir() if not _LEFTOVERS.fullmatch(path.name)}

    def is_failed_start(self) -> bool:
        """Return whether all that is there is what a run left that ended before its first step, however it ended."""
        kept = self._kept()
        # A folder with a recipe and a README may be anybody's; the environment is written first.
        if not kept <= _OF_A_START or not {files.ENVIRONMENT, files.ERROR, files.SUMMARY} & kept:
            return False
        summary = intact_mapping(self.path / files.SUMMARY, [])
        if summary.get("steps") or summary.get("status") == "complete":
            return False
        if any(line["step"] > 0 or line.get("phase") == files.TRAIN for line in self.read_metrics()):
            return False
        logged = [*self.path.glob("completions/step-*"), *self.path.glob("credit/step-*")]
        return all(match and int(match[1]) <= 1 for match in (_OF_A_STEP.match(path.name) for path in logged))

    def clear_failed_start(self) -> None:
        """Delete what a run left that ended before its first step; nothing else is touched."""
        if not self.path.is_dir() or not self.is_failed_start():
            return
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def withdraw(self) -> None:
        """Delete a directory in which nothing was measured yet, so that the next try may use it."""
        if self.metrics_path.exists():
            return
        for name in (files.RECIPE, files.ENVIRONMENT):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def write_recipe(self, values: dict[str, Any]) -> None:
        """Write the resolved recipe.

        Args:
            values: Field name to value; what is left out has its default.
        """
        head = (
            f"# The recipe of this run, overrides included; what is not listed has the default of dgpo {__version__}\n"
            f"# and the versions in {files.ENVIRONMENT}. Run it again: dgpo train {files.RECIPE}\n"
        )
        write_atomically(self.path / files.RECIPE, head + yaml12.dump_values(values))

    def write_environment(
        self,
        *,
        seed: int,
        num_processes: int,
        command: list[str],
        resumed_from: str | None,
        credit: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        """Write versions, machine, command and credit rule; a resumed run adds itself to the list.

        Args:
            seed: Of the run.
            num_processes: How many processes train.
            command: The command line.
            resumed_from: Name of the checkpoint that is continued; None for a new run.
            credit: Name, options and source digest of the credit rule.
            recipe: The values of the recipe, for a later look at whether `recipe.yaml` is still the same.
        """
        path = self.path / files.ENVIRONMENT
        facts = environment(seed=seed, num_processes=num_processes, command=command)
        if credit is not None:
            facts["credit"] = credit
        if resumed_from is not None:
            first = intact_mapping(path, [])
            before = first.get("resumed")
            again = [*(before if isinstance(before, list) else []), {"from": resumed_from, **facts}]
            facts = (first or facts) | {"resumed": again}
        facts["recipe"] = recipe
        files.write_json(path, facts)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(files.to_json(record) + "\n")

    def write_completions(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Write the completions of one step, replacing those of an earlier attempt at it."""
        lines = [files.to_json(row, ensure_ascii=False) for row in rows]
        write_atomically(self.path / files.COMPLETIONS / f"step-{step:06d}.jsonl", "\n".join(lines) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the figures of the run."""
        files.write_json(self.path / files.SUMMARY, summary)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics; a last line that a kill cut off is left out."""
        return files.read_jsonl(self.metrics_path)

    def cut_to(self, step: int, history: Sequence[dict[str, Any]] = (), *, rollout: int = 1) -> list[str]:
        """Forget what came after a step, as a resumed run does those steps again; restore metrics up to it.

        Args:
            step: The step of the checkpoint that the run continues from.
            history: What the trainer had logged by then, from its checkpoint.
            rollout: Completions of one sampling, which each file of them holds.

        Returns:
            Sentences about what was damaged, and what was restored.
        """
        lines, note = restored(self.read_metrics(), history, step)
        notes = [note] if note else []
        if lines or self.metrics_path.exists():
            write_atomically(self.metrics_path, "".join(files.to_json(line) + "\n" for line in lines))
        for file in sorted((self.path / files.COMPLETIONS).glob("step-*.jsonl")):
            match = re.fullmatch(r"step-(\d+)\.jsonl", file.name)
            if match and int(match[1]) > step:
                file.unlink()
            elif match and (damaged := damaged_lines(file, rollout)):
                notes.append(f"{files.COMPLETIONS}/{file.name} is damaged: {damaged} of its lines cannot be read.")
        for file in [*self.path.glob("*.tmp"), *(self.path / files.COMPLETIONS).glob("*.tmp")]:
            file.unlink()
        forget_after(self.path, step)
        for name in (files.SUMMARY, files.CURVE, files.ERROR):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / files.FINAL, ignore_errors=True)
        return notes


def default_path(recipe_name: str) -> Path:
    """Return `runs/<recipe name>-<YYYYmmdd-HHMMSS>`, relative to the working directory."""
    return Path("runs") / f"{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}"
