"""`dgpo.watch`: the credit log of any `GRPOTrainer`, without a change of what it trains.

At a logged step, the completions that are shown are scored by the reference, where there is one, before the loss: the
only forward pass that is added. The policy's hidden states are those that TRL's own loss hands to its head kernel; of
these rows, `lm_head_stats` gives entropy and distance. Nothing of it enters the loss. TRL's kernel, its results and its
inputs stay as they are; random numbers, modes and trained parameters are restored.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from dgpo.core import TokenStats, assign_credit
from dgpo.credit_log import CompletionCredit, CreditLog, CreditSettings
from dgpo.engines.trl import checks, heads
from dgpo.engines.trl.compat import WATCHED
from dgpo.engines.trl.listener import Listener
from dgpo.engines.trl.logged_settings import logged_settings
from dgpo.engines.trl.reference import AUTO, Reference, find_reference
from dgpo.engines.trl.rollout import GROUP, groups_of, log_columns
from dgpo.engines.trl.step_log import SAMPLING_LOG_RATIO, PickedRows, StepLog, advantages_of, given_columns
from dgpo.io import finite
from dgpo.rules import CreditRule, resolve

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
"""File in the folder of the log with the metrics that TRL logged, for the curves of the page."""


def watch(
    trainer: Any,
    every: int = 20,
    *,
    reference: str | Path | None = AUTO,
    completions: int = 8,
    answer: str | None = None,
    credit_rule: str | Callable[..., Any] = "even",
    credit_options: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
) -> None:
    """Write the credit log of a `GRPOTrainer`, for `dgpo report`, without a change of what it trains.

    Step 1, every n-th step and the last one log whole groups of completions with prompt, gold answer, rewards and
    advantage, and per token the entropy and the log-ratio to the policy that sampled; against a reference also the
    squared Hellinger distance, the score and the log-ratio. A logged step costs the reference's forward pass of the
    logged completions, in which the prompt of a group runs once, and one pass over the heads; the steps in between cost
    nothing. No bit of the training changes.

    Args:
        trainer: A `GRPOTrainer` of TRL or of a subclass, before `train()`. In a run of several processes every one of
            them calls this; the main one writes, from its own completions.
        every: Steps between two that are logged, at least 1.
        reference: `"auto"`: the reference that TRL has (`beta` above 0), or else the model without its adapter (PEFT),
            or else none. A name or path of a checkpoint with the policy's vocabulary, which the main process loads.
            None: none.
        completions: How many completions a logged step keeps, in whole groups.
        answer: The column of the data set with the gold answer; a dot leads into a mapping. None: the first of
            `answer`, `final_answer`, `ground_truth`, `solution` and `reward_model.ground_truth`.
        credit_rule: The rule whose weights are shown. The default says what the run does: all weights are 1. With
            another one, the page shows what that rule would have given; the run is not trained with it.
        credit_options: Options of the rule.
        output_dir: Where `credit/` is written; the trainer's `output_dir` by default.

    Raises:
        ConfigError: If this cannot be watched, naming the reason and the remedy.

    Example:
        >>> import dgpo
        >>> def train(trainer):
        ...     dgpo.watch(trainer, every=20)
        ...     trainer.train()    # then: dgpo report OUTPUT_DIR
    """
    rule = resolve(credit_rule, **(credit_options or {}))
    checks.check_watched(trainer, rule, every, completions, answer)
    compared = find_reference(trainer, reference)
    if trainer.accelerator.is_main_process:
        checks.check_watched_rule(rule, has_reference=compared is not None)
    settings = CreditSettings(
        **rule.describe(),
        vocab_size=trainer.model.config.get_text_config().vocab_size,
        engine="watch",
        temperature=trainer.temperature,
        trainer=logged_settings(trainer.args, trainer.model),
    )
    log = CreditLog(output_dir or trainer.args.output_dir, settings, every=every, max_completions=completions)
    if trainer.accelerator.is_main_process or (compared is not None and compared.is_shared):
        Watch(trainer, log, rule, compared, answer).begin()


class Watch(StepLog):
    """Looks at the losses of a trainer.

    Args:
        trainer: The trainer.
        log: Where completions are written.
        rule: Whose weights are shown.
        reference: What the policy is compared with.
        answer: The column with the gold answer.
    """

    def __init__(
        self, trainer: Any, log: CreditLog, rule: CreditRule, reference: Reference | None, answer: str | None
    ) -> None:
        super().__init__(trainer, log)
        self._rule, self._reference, self._answer = rule, reference, answer
        self._writes = bool(trainer.accelerator.is_main_process)
        self._every = log.every  # the main process's log may thin itself out; all processes agree on this one
        self._agreed = (0, False)  # the newest step that all processes have agreed on, and whether it is logged
        self._num_saved = 0  # lines of the trainer's history in the file of metrics
        self._has_warned = False

    def begin(self) -> None:
        """Hook the trainer."""
        trainer = self._trainer
        trainer.add_callback(self)
        loss, rollout = WATCHED
        _surround(trainer, loss, self._loss)
        _surround(trainer, rollout, self._rollout)

    # ------------------------------------------------------------------------------------------------ callbacks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the log from the step that the run starts at."""
        self._num_saved = 0
        if self._writes:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was kept during the step."""
        is_logged = bool(self._picked)
        super().on_step_end(args, state, control, **kwargs)
        if is_logged:
            self._save_metrics(state.log_history)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the last metrics."""
        if self._writes:
            self._save_metrics(state.log_history)

    def _save_metrics(self, history: list[dict[str, Any]]) -> None:
        """Append what TRL has logged since the last time; a resumed run writes its whole history once."""
        lines = [json.dumps(finite(line), default=str) + "\n" for line in history[self._num_saved :]]
        try:
            self.log.folder.mkdir(parents=True, exist_ok=True)
            with (self.log.folder / METRICS).open("a" if self._num_saved else "w", encoding="utf-8") as file:
                file.writelines(lines)
            self._num_saved = len(history)
        except OSError as error:
            self._warn("The metrics cannot be written (%s).", error)

    # --------------------------------------------------------------------------------------------------- hooks

    def _rollout(self, make: Callable[..., Any], rows: list[dict[str, Any]]) -> Any:
        """Let the trainer make a rollout; for one that a logged step reads, add what is logged of it."""
        outputs = make(rows)
        if not self._writes:
            return outputs
        args, per_step = self._trainer.args, self._trainer.args.gradient_accumulation_steps
        last_loss = self._trainer._step % per_step + args.steps_per_generation * self._trainer.num_iterations - 1
        try:
            if self.is_due(steps_ahead=last_loss // per_step):
                self._add_columns(rows, outputs)
        except Exception:  # a view of the training must not end it
            self._warn("Answers and rewards of a rollout could not be taken.", exc_info=True)
        return outputs

    def _add_columns(self, rows: list[dict[str, Any]], outputs: dict[str, Any]) -> None:
        ids = outputs["completion_ids"]
        if len(ids) == len(rows):
            columns = log_columns(self._trainer, rows, self._answer) | {GROUP: groups_of(self._trainer, len(ids))}
        else:  # a subclass has left completions out, so that rows of the data set and rewards cannot be told apart
            prompts = torch.cat([outputs["prompt_ids"], outputs["prompt_mask"]], dim=1)
            columns = {GROUP: prompts.unique(dim=0, return_inverse=True)[1]}
        outputs.update({name: values.to(ids.device) for name, values in columns.items()})

    def _loss(self, compute: Callable[..., Any], model: Any, inputs: dict[str, Any]) -> Any:
        """Let the trainer compute its loss, and listen to its head where completions of it are logged."""
        if not self._trainer.model.training:
            return compute(model, inputs)
        rows = self._rows(inputs) if self._writes else []
        shared = self._reference is not None and self._reference.is_shared
        if not (self._is_agreed() if shared else rows):
            return compute(model, inputs)
        listener = None
        try:
            listener = Listener(inputs, rows or [0], self._scored_by_reference(inputs, rows or [0]), self._kappa)
        except Exception:
            if shared:  # the other processes are in the same pass
                raise
            self._warn("The reference could not score completions.", exc_info=True)
        if listener is None or not rows:
            return compute(model, inputs)
        with heads.listening(listener):
            loss = compute(model, inputs)
        if listener.picked is not None:
            self.keep(listener.picked)
        else:
            reason = "its pass over the LM head scores other tokens than those of the completions"
            self._warn("The loss of %s cannot be watched: %s.", type(self._trainer).__name__, listener.error or reason)
        return loss

    def _rows(self, inputs: Mapping[str, Any]) -> list[int]:
        try:
            return self.rows_of(inputs)
        except Exception:
            self._warn("The completions of a step could not be chosen.", exc_info=True)
            return []

    def _is_agreed(self) -> bool:
        """Return whether the main process logs this step; asked once a step, and of steps that can be due alone."""
        trainer = self._trainer
        step = trainer.state.global_step + 1
        if self._agreed[0] != step:
            is_candidate = step == 1 or step % self._every == 0 or step == trainer.state.max_steps
            self._agreed = (step, False)
            if is_candidate:
                flag = torch.tensor(float(self._writes and self.is_due()), device=trainer.accelerator.device)
                self._agreed = (step, bool(trainer.accelerator.reduce(flag, reduction="sum") > 0))
        return self._agreed[1]

    def _scored_by_reference(self, inputs: Mapping[str, Any], rows: Sequence[int]) -> heads.ReferenceHead | None:
        if self._reference is None:
            return None
        index = torch.tensor(rows, device=inputs["completion_ids"].device)
        mask = inputs["completion_mask"][index]
        length = max(1, int(mask.sum(-1).max()))
        ids = torch.cat([inputs["prompt_ids"][index], inputs["completion_ids"][index, :length]], dim=1)
        mask = torch.cat([inputs["prompt_mask"][index], mask[:, :length]], dim=1)
        return self._reference.score(ids, mask, length)

    # -------------------------------------------------------------------------------------------------- credit

    @property
    def _kappa(self) -> float:
        return float(self._rule.options.get("kappa", 1.0))

    def _completions(self, parts: Sequence[PickedRows]) -> list[CompletionCredit]:
        """Give all completions of the step their credit at once: a rule may compare those of a prompt."""
        width = max(part.trained.size(1) for part in parts)
        trained = torch.cat([pad(part.trained, (0, width - part.trained.size(1))) for part in parts])
        per_token = {
            name: torch.cat([pad(part.per_token[name], (0, width - part.trained.size(1))) for part in parts])
            for name in parts[0].per_token
        }
        rewards = None
        if all(part.rewards is not None for part in parts):
            values = torch.cat([part.rewards for part in parts if part.rewards is not None])
            rewards = (values * self._trainer.reward_weights.cpu()).nansum(-1)
            rewards[values.isnan().all(-1)] = torch.nan
        stats = TokenStats(
            completion_mask=trained,
            advantages=torch.cat([advantages_of(part.inputs) for part in parts]).float(),
            entropy=per_token["entropy"],
            logps=per_token["logps"],
            old_logps=per_token["logps"] - per_token[SAMPLING_LOG_RATIO],
            vocab_size=self.log.settings.vocab_size,
            hellinger_sq=per_token.get("hellinger_sq"),
            ref_logps=per_token.get("ref_logps"),
            rewards=rewards,
            group=torch.cat([part.inputs[GROUP] for part in parts]),
        )
        given = given_columns(assign_credit(stats, self._rule))
        first = 0
        for part in parts:
            count, length = part.trained.shape
            part.per_token |= {name: values[first : first + count, :length] for name, values in given.items()}
            first += count
        return super()._completions(parts)

    def _warn(self, message: str, *values: Any, exc_info: bool = False) -> None:
        """Warn once of the first thing that went wrong; the training goes on."""
        if not self._has_warned:
            logger.warning(f"{message} The training goes on.", *values, exc_info=exc_info)
        self._has_warned = True


def _surround(trainer: Any, name: str, hook: Callable[..., Any]) -> None:
    """Let a hook stand around a method of one trainer; it is given the method and its arguments."""
    method = getattr(trainer, name)

    @wraps(method)
    def surrounded(*args: Any, **kwargs: Any) -> Any:
        return hook(method, *args, **kwargs)

    setattr(trainer, name, surrounded)
