"""The trainer's callback that writes metrics and completions and moves the progress bar. Imports transformers."""

import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from dgpo.lab.progress import EVALUATING, TRAINING, Progress
from dgpo.lab.runs.directory import RunDirectory
from dgpo.lab.runs.files import BEFORE, TRAIN
from dgpo.lab.train.signal import SignalMonitor


class RunRecorder(TrainerCallback):
    """Records a run as the trainer reports it; in the main process alone.

    Args:
        directory: Where to write; `None` in the processes that write nothing.
        progress: The bar.
        reward_name: Name of the first reward function.
        completions_every: Write the completions of every n-th logged step; 0 writes none.
        signal: Counts the groups whose rewards differ.
        first_step: Step of the checkpoint that is continued.
        seconds_before: Training time of the runs that this one resumes.
        before: Lines of the metrics that were measured before training, by the run that this one resumes.

    Attributes:
        phase: `"before"`, `"train"` or `"after"`; stands in each line of the metrics.
        step: The last step that was finished.
        generation_seconds: Time spent sampling while training.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        progress: Progress,
        *,
        reward_name: str,
        completions_every: int,
        signal: SignalMonitor | None = None,
        first_step: int = 0,
        seconds_before: float = 0.0,
        before: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.phase = TRAIN
        self.step = first_step
        self.generation_seconds = 0.0
        self._directory, self._progress, self._reward_name = directory, progress, reward_name
        self._completions_every, self._signal = completions_every, signal
        self._truncated: float | None = None
        self._seconds_before = seconds_before
        self._started: float | None = None
        self._logs_seen = 0
        self._unwritten: list[dict[str, Any]] = []
        self._batches = 0
        self._before = list(before)

    @property
    def seconds(self) -> float:
        """Training time so far, earlier runs of the same directory included."""
        return self._seconds_before + self.session_seconds

    @property
    def has_trained(self) -> bool:
        """Whether a step was made, by this process or the one it continues."""
        return self.step > 0

    @property
    def session_seconds(self) -> float:
        """Training time of this process."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the bar."""
        self._started = time.monotonic()
        self.step = state.global_step
        if not any(line.get("phase") == BEFORE for line in state.log_history):
            state.log_history[:0] = self._before  # the trainer forgets it when training begins
        self._progress.begin(TRAINING, state.max_steps, state.global_step)

    def on_rollout_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Any = None,
        seconds: float = 0.0,
        mode: str = TRAIN,
        truncated: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the time of sampling, and take the completions of a training rollout.

        They are taken here, as an evaluation before the next log puts its own completions in their place.

        Args:
            args: The trainer's configuration.
            state: Its state.
            control: Its control.
            logs: TRL's `_logs`: prompt, completion, advantages and rewards of the last rollout.
            seconds: Time that the sampling took.
            mode: `"train"` or `"eval"`.
            truncated: Share of the completions that were cut off.
            **kwargs: What other versions add.
        """
        if self.phase == TRAIN:
            self.generation_seconds += seconds
        if mode == TRAIN and self._signal is not None:
            self._signal.add(logs)
            self._truncated = truncated
        if mode == TRAIN and self._directory is not None and self._completions_every:
            self._unwritten = _rows(logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the step, which an error message will name, and move the bar."""
        self.step = state.global_step
        if not control.should_log:
            self._progress.advance(self.step, known=False)
        if self._signal is not None and self._signal.due():
            self._progress.say(self.no_signal())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was counted since the last line of the metrics: a short run may have none."""
        share = None if self._signal is None else self._signal.take_share()
        if share is not None and self._directory is not None:
            line = {"step": state.global_step, "phase": TRAIN, "wall_seconds": round(self.seconds, 3)}
            self._directory.append_metrics(line | {"differing_groups": share})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write a line of metrics, and the completions that its figures are means of."""
        # The trainer's closing line holds averages over the run; they stand in summary.json.
        if self._directory is None or not logs or "train_runtime" in logs:
            return
        share = self._signal.take_share() if "loss" in logs and self._signal is not None else None
        if share is not None:
            logs["differing_groups"] = share
        line = {"step": state.global_step, "phase": self.phase, "wall_seconds": round(self.seconds, 3)} | logs
        # So that a checkpoint holds what the file holds, which can be restored from it.
        state.log_history[-1].update(line)
        if self.phase == BEFORE:
            self._before.append(line)
        self._directory.append_metrics(line)
        if self.phase != TRAIN:
            return
        self._progress.note(
            reward=logs.get("reward"),
            accuracy=logs.get(f"rewards/{self._reward_name}/mean"),
            held_out=logs.get(f"eval_rewards/{self._reward_name}/mean"),
        )
        if "loss" in logs:
            self._progress.advance(state.global_step)
            self._write_completions(state.global_step)

    def no_signal(self) -> str:
        """Return what to say of a run in which no group had differing rewards; `""` where some had."""
        if self._signal is None or not self._signal.samplings:
            return ""
        return self._signal.notice(self._truncated)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the next evaluation count its batches from the start."""
        self._batches = 0

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the bar of an evaluation before or after training."""
        if self.phase == TRAIN:
            return
        if self._batches == 0:
            self._progress.begin(EVALUATING, len(eval_dataloader))
        self._batches += 1
        self._progress.advance(self._batches)

    def write_unlogged_completions(self) -> None:
        """Write what was sampled for the step that failed: often they show why."""
        if self._directory is not None and self._unwritten:
            step = self.step + 1
            self._directory.write_completions(step, [{"step": step, **row} for row in self._unwritten])
            self._unwritten = []

    def _write_completions(self, step: int) -> None:
        """Write what was sampled since the last log; several steps may train on one sampling."""
        self._logs_seen += 1
        if self._directory is None or not self._unwritten or (self._logs_seen - 1) % self._completions_every:
            return
        self._directory.write_completions(step, [{"step": step, **row} for row in self._unwritten])
        self._unwritten = []


def _rows(logs: dict[str, Any]) -> list[dict[str, Any]]:
    """What TRL keeps of its last sampling, one mapping a completion."""
    rewards = {name: list(values) for name, values in logs["rewards"].items()}
    columns = zip(logs["prompt"], logs["completion"], logs["advantages"], strict=True)
    return [
        {
            "prompt": prompt,
            "completion": completion,
            "rewards": {name: values[index] for name, values in rewards.items()},
            "advantage": advantage,
        }
        for index, (prompt, completion, advantage) in enumerate(columns)
    ]
