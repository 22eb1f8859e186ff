"""How a run ended: its summary, its curve, the closing table, and the message when it had to stop."""

import re
import shlex
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dgpo.checkpoint_files import find_checkpoints
from dgpo.errors import ConfigError, DataError, DgpoError, TrainingError
from dgpo.lab.progress import duration
from dgpo.lab.runs.curve import draw_curve
from dgpo.lab.runs.files import AFTER, BEFORE, COMPLETIONS, CURVE, ERROR, FINAL, METRICS, SUMMARY
from dgpo.lab.runs.summary import accuracy, accuracy_text, prompts_text, summarize
from dgpo.lab.train.assemble import reward_names
from dgpo.lab.train.session import Session
from dgpo.secrets import hide_in_text

# What torch says instead of the reason for which a file could not be written.
_TORCH_CANNOT_WRITE = re.compile(
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed [^.\n]*|basic_ios::clear: iostream error"
)

# What gloo says of the other processes.
_NO_ANSWER = re.compile(r"Timed out waiting (\d+)ms for \w+ operation to complete")
_PROCESS_ENDED = re.compile(r"gloo/.*?(Connection \w+ by peer|Broken pipe)")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence on how to go on."""


class RunSummary:
    """Writes the figures and the curve of a run, and explains why it stopped.

    Args:
        session: The run.
        task: Its task.

    Attributes:
        recorder: The `RunRecorder`, once there is one.
        trained_seconds: Training time of this process, once training is over.
        summary: What stands in `summary.json`.
    """

    def __init__(self, session: Session, task: Any) -> None:
        self.session, self.task = session, task
        self.recorder: Any = None
        self.trained_seconds: float | None = None
        self.summary: dict[str, Any] = {}

    def write(self, status: str, message: str | None = None, trainer: Any = None) -> None:
        """Write the curve, the model card, and `summary.json` last: a run that has it lacks nothing.

        Args:
            status: `"complete"`, `"failed"` or `"interrupted"`.
            message: What happened, if it is not complete.
            trainer: The trainer, for the card of a trained model.
        """
        session = self.session
        session.progress.end()
        if not session.is_main or self.recorder is None:
            return
        metrics, name = session.directory.read_metrics(), reward_names(self.task)[0]
        seconds = self.trained_seconds or self.recorder.session_seconds
        facts = {
            "status": status,
            **({"message": hide_in_text(message)} if message else {}),
            "task": session.recipe["task"],
            "model": session.recipe["model_name_or_path"],
            "seed": session.recipe["seed"],
            "generation_share": self.recorder.generation_seconds / seconds if seconds else None,
        }
        self.summary = summarize(metrics, reward_name=name, eval_prompts=self._eval_prompts, facts=facts)
        if status == "complete" and self.summary["differing_groups"] == 0:
            self.summary["no_signal"] = self.recorder.no_signal() or "No group had differing rewards in the whole run."
        title = f"DGPO on {session.recipe['task']} (model: {session.recipe['model_name_or_path']})"
        draw_curve(metrics, name, title, session.directory.path / CURVE)
        if trainer is not None:
            self.write_model_card(trainer)
        session.directory.write_summary(self.summary)

    def write_model_card(self, trainer: Any) -> None:
        """Write the README of the trained model, with what was measured."""
        from dgpo.engines.trl.model_card import model_card

        if self.session.is_main:
            folder = self.session.directory.path / FINAL
            task = {"task": f"`{self.session.recipe['task']}`"}
            figures = {label or "held-out prompts": text for label, text in _figures(self.summary)}
            text = model_card(trainer, folder, {**task, **figures})
            (folder / "README.md").write_text(text, encoding="utf-8")

    def say_accuracy(self, phase: str) -> None:
        """Print the held-out accuracy that was just measured."""
        self.session.progress.end()
        metrics = self.session.directory.read_metrics()
        measured = accuracy(metrics, phase, reward_names(self.task)[0], self._eval_prompts)
        over = f" ({prompts_text(measured)})" if measured and measured["prompts"] < self._eval_prompts else ""
        self.session.progress.say(f"held-out accuracy {phase} training: {accuracy_text(measured)}{over}")

    @property
    def _eval_prompts(self) -> int:
        return 0 if self.task.held_out is None else len(self.task.held_out)

    def print_table(self) -> None:
        """Print what was reached and where everything lies."""
        if not self.summary:
            return
        if notice := self.summary.get("no_signal"):
            self.session.progress.say(notice)
        rows = [*_figures(self.summary), *self._places()]
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            # Not rich's table, which pads lines and cuts paths in two on a narrow terminal.
            self.session.progress.say(f"{label:<{width}}  {text}")

    def _places(self) -> list[tuple[str, str]]:
        path = self.session.directory.path
        named = {
            "trained model": FINAL,
            "curve": CURVE,
            "metrics": METRICS,
            "completions": COMPLETIONS,
            "figures": SUMMARY,
        }
        if self.summary.get("no_signal"):
            del named["trained model"]  # the weights are what they were
        rows = [(label, str(path / name)) for label, name in named.items() if (path / name).exists()]
        return [*rows, ("as a page", f"dgpo report {shlex.quote(str(path))}")]

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turn whatever stops the run into one message: what happened, at which step, and how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):  # a second one ends the writing of figures, and gets the same message
                self._close("interrupted", "interrupted")
            raise Interrupted(f"Interrupted {self._where()}. {self._remedy()}") from None
        except (ConfigError, DataError):
            # Bad input that showed late (a model that is not there): as if the run had not been started.
            self.session.progress.end()
            if self.session.is_main and self.session.checkpoints.newest is None:
                self.session.directory.withdraw()
            raise
        except DgpoError as error:
            self._close("failed", str(error))
            raise TrainingError(f"The run failed {self._where()}: {error}\n{self._remedy()}") from error
        except Exception as error:
            reason = why_it_failed(error)
            trace = self._write_trace()
            self._close("failed", reason)
            text = f"The run failed {self._where()}: {reason}.{trace}\n{self._remedy()}"
            raise TrainingError(text) from error

    def _close(self, status: str, message: str) -> None:
        """Write the summary of a run that stopped; a disk that is full must not hide why it did."""
        self.session.progress.end()
        if self.recorder is not None:
            _attempt(self.recorder.write_unlogged_completions)
        _attempt(lambda: self.write(status, message))

    def _write_trace(self) -> str:
        path = self.session.directory.path / ERROR
        written = _attempt(lambda: path.write_text(hide_in_text(traceback.format_exc()), "utf-8", "backslashreplace"))
        return f"\nThe traceback is in {path}." if written else ""

    def _where(self) -> str:
        if self.recorder is None or not self.recorder.has_trained:
            return "before the first step"
        return f"after step {self.recorder.step}"

    def _remedy(self) -> str:
        """Say what is kept and how to go on."""
        newest = find_checkpoints(self.session.directory.path, quick=True).newest
        folder = shlex.quote(str(self.session.directory.path))
        if newest is None:
            again = "" if self.recorder is not None and self.recorder.has_trained else " The next try may use it again."
            return f"There is no checkpoint yet; what was recorded is kept in {folder}.{again}"
        return f"Metrics, completions and {newest.name} are kept; continue with: dgpo train --resume {folder}"


def why_it_failed(error: Exception) -> str:
    """Return the reason of an error that no one foresaw, in words where it is the disk's.

    Args:
        error: Anything.

    Returns:
        A part of a sentence.

    Example:
        >>> why_it_failed(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"))
        'the disk is full or its quota is used up: a file could not be written whole (unexpected pos 5120 vs 5012)'
        >>> why_it_failed(RuntimeError("Timed out waiting 5000ms for recv operation to complete"))
        'another process did not answer for 5 s (ddp_timeout)'
    """
    text = f"{error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    if short := _TORCH_CANNOT_WRITE.search(text):
        return f"the disk is full or its quota is used up: a file could not be written whole ({short[0]})"
    if short := _NO_ANSWER.search(text):
        return f"another process did not answer for {duration(int(short[1]) / 1000)} (ddp_timeout)"
    if short := _PROCESS_ENDED.search(text):
        return f"another process has ended; its own message says why ({short[1]})"
    return f"{type(error).__name__}: {text}"


def _figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    held_out = summary["held_out_accuracy"]
    if held_out[AFTER] is not None:
        shift = f"{accuracy_text(held_out[BEFORE])}  ->  {accuracy_text(held_out[AFTER])}"
        rows += [("held-out accuracy", shift), ("", f"of {prompts_text(held_out[AFTER])}, with 95 % intervals")]
    if "no_signal" in summary:
        rows.append(("no signal", "no group had differing rewards: nothing was learned"))
    elif (share := summary["differing_groups"]) is not None and share < 0.1:
        rows.append(("signal", f"{100 * share:.1f} % of the groups had differing rewards; the others taught nothing"))
    first, last = summary["reward_first_10_logs"], summary["reward_last_10_logs"]
    if first is not None and last is not None:
        rows.append(("training reward", f"{first:.3f}  ->  {last:.3f}   (first and last logged steps, 10 at most)"))
    share = summary["generation_share"]
    sampling = f", {100 * share:.0f} % of it sampling" if share else ""
    rows.append(("training", f"{summary['steps']} steps in {duration(summary['train_seconds'])}{sampling}"))
    return rows


def _attempt(action: Callable[[], Any]) -> bool:
    """Return whether an action could write what it had to."""
    try:
        action()
    except OSError:
        return False
    return True
