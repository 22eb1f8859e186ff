"""Takes a sample of completions with their tokens' credit out of a training step, and writes it when the step is over.

On the main process alone, from its own completions. While a step that is logged is computed, rows are picked on the
device; nothing is read back before the optimizer has made its step. The steps in between cost nothing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from dgpo.core import Credit
from dgpo.credit_log import CompletionCredit, CreditLog, CreditSettings
from dgpo.credit_log.collect import (
    MAX_PLACES,
    NUM_ALTERNATIVES,
    PER_TOKEN,
    alternatives_at,
    collect_completion,
    evenly_spread,
)
from dgpo.credit_log.trackers import send_tables
from dgpo.engines.trl.heads import HeadView
from dgpo.engines.trl.rollout import local_rewards
from dgpo.rules import CreditRule

logger = logging.getLogger(__name__)

REWARDS = "dgpo_rewards"
"""Key of the rewards, (B, functions), among the inputs of the loss."""

TOKEN = "token_advantages"
"""Column of a signed rule, which gives no weights."""


@dataclass(frozen=True)
class _TopTokens:
    """The likeliest tokens at some flat token positions of one completion, still on the device."""

    row: int  # among the picked completions
    positions: Tensor
    top: dict[str, tuple[Tensor, Tensor]]


class _Observer:
    """Looks at the pair pass, whose parts come one after another, for the completions that were picked.

    Args:
        scored: (B, T) bool, True where a token is scored, of all parts together.
        picked: Rows of `scored` whose tokens are looked at.
        kappa: Exponent of the gate, which decides which tokens have the largest scores.
    """

    def __init__(self, scored: Tensor, picked: list[int], kappa: float) -> None:
        lengths = scored.sum(-1).tolist()
        ends = torch.tensor(lengths).cumsum(0).tolist()
        self._spans = [(ends[row] - lengths[row], ends[row]) for row in picked]
        self._kappa, self._offset = kappa, 0
        self.picked, self.top_tokens = picked, list[_TopTokens]()

    def __call__(self, view: HeadView) -> None:
        first, count = self._offset, len(view.stats.logps)
        self._offset += count
        # The order of the scores; log V does not change it. Without a reference, that of the entropies.
        order = view.stats.entropy.detach().clamp(min=0.0) ** self._kappa
        if view.stats.hellinger_sq is not None:
            order = view.stats.hellinger_sq * order
        for row, (start, end) in enumerate(self._spans):
            if first <= start < end <= first + count:
                inside = order[start - first : end - first].topk(min(MAX_PLACES, end - start)).indices
                top = view.top_tokens(inside + (start - first), NUM_ALTERNATIVES)
                self.top_tokens.append(_TopTokens(row, inside, top))


class CreditLogging(TrainerCallback):
    """Writes the credit log of a `DGPOTrainer`.

    Args:
        trainer: The trainer; its state says which step is made.
        rule: Its rule.
    """

    def __init__(self, trainer: Any, rule: CreditRule) -> None:
        args = trainer.args
        settings = CreditSettings(
            **rule.describe(),
            vocab_size=trainer.model.config.get_text_config().vocab_size,
            engine="trl",
            credit_policy=args.credit_policy,
            temperature=args.temperature,
        )
        self.log = CreditLog(
            args.output_dir, settings, every=args.credit_log_steps, max_completions=args.credit_log_completions
        )
        self._trainer, self._settings = trainer, settings
        self._kappa = float(rule.options.get("kappa", 1.0))
        self._observer: _Observer | None = None
        self._taken: list[tuple[dict[str, Tensor], list[_TopTokens]]] = []
        self._seen = 0  # completions of the step on this process, picked or not

    @classmethod
    def of(cls, trainer: Any, rule: CreditRule) -> "CreditLogging | None":
        """Return the logging of a trainer, added to its callbacks; `None` where it is off or another process logs."""
        if not trainer.args.credit_log_steps or not trainer.accelerator.is_main_process:
            return None
        made = cls(trainer, rule)
        trainer.add_callback(made)
        return made

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the log from the step that the run starts at."""
        self.log.start(state.global_step)

    def add_rewards(self, outputs: dict[str, Any]) -> None:
        """Add each function's reward of the completions that were just sampled to the inputs of the loss."""
        ids = outputs["completion_ids"]
        outputs[REWARDS] = local_rewards(self._trainer, len(ids)).to(ids.device)

    def observe(self, scored: Tensor) -> _Observer | None:
        """Pick completions from a batch that is about to be scored.

        Args:
            scored: (B, T), non-zero where a token of a completion is scored.

        Returns:
            What looks at the pair pass; `None` unless this is a training step that is due and has room left.
        """
        self._observer = None
        state, room = self._trainer.state, self.log.max_completions - sum(len(t["ids"]) for t, _ in self._taken)
        step = state.global_step + 1
        if not self._trainer.model.training or not (self.log.is_due(step) or step == state.max_steps):
            return None
        self._seen += len(scored)
        if room > 0:
            # TRL shuffles the completions before the loss, but not before the pass of credit_policy="old".
            self._observer = _Observer(scored.bool(), evenly_spread(room, len(scored)), self._kappa)
        return self._observer

    def take(self, inputs: dict[str, Any], credit: Credit, per_token: Mapping[str, Tensor], trained: Tensor) -> None:
        """Select what the picked completions were given; all of it stays on the device.

        Args:
            inputs: TRL's inputs of the loss.
            credit: What the rule gave.
            per_token: (B, T) statistics by name.
            trained: (B, T) bool, True where a token has a weight.
        """
        observer, self._observer = self._observer, None
        if observer is None:
            return
        columns = {
            "ids": inputs["completion_ids"],
            "mask": inputs["completion_mask"],
            "prompt_ids": inputs["prompt_ids"],
            "prompt_mask": inputs["prompt_mask"],
            "advantage": inputs["advantages"],
            "trained": trained,
            **{name: values for name, values in per_token.items() if name in PER_TOKEN},
            **({"scores": credit.scores} if credit.scores is not None else {}),
            **({"weights": credit.weights} if credit.weights is not None else {TOKEN: credit.token_advantages}),
            **({REWARDS: inputs[REWARDS]} if REWARDS in inputs else {}),
        }
        picked = torch.tensor(observer.picked, device=trained.device)
        self._taken.append(({name: x.detach()[picked] for name, x in columns.items()}, observer.top_tokens))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was taken during the step."""
        taken, self._taken = self._taken, []
        seen, self._seen = self._seen, 0
        if not taken:
            return
        try:
            completions = [found for part in taken for found in self._completions(*part)]
            self.log.write(state.global_step, completions, out_of=seen * self._trainer.accelerator.num_processes)
        except Exception:  # a view of the training must not end it
            logger.warning("The credit of step %d could not be logged.", state.global_step, exc_info=True)
            return
        try:
            found = (getattr(callback, "tb_writer", None) for callback in self._trainer.callback_handler.callbacks)
            boards = [board for board in found if board is not None]
            send_tables(state.global_step, completions, trackers=args.report_to or [], boards=boards)
        except Exception:  # the file is written
            logger.warning("A tracker did not take the credit of step %d.", state.global_step, exc_info=True)

    def _completions(self, columns: dict[str, Tensor], places: list[_TopTokens]) -> list[CompletionCredit]:
        columns = {name: values.cpu() for name, values in columns.items()}
        alternatives: list[dict[int, Any]] = [{} for _ in columns["ids"]]
        for place in places:
            alternatives[place.row] |= alternatives_at(place.positions.tolist(), place.top)
        rows = range(len(columns["ids"]))
        # Where TRL masks cut-off completions, nothing of them is scored and there is nothing to show.
        return [self._completion(columns, row, alternatives[row]) for row in rows if columns["mask"][row].any()]

    def _completion(self, columns: dict[str, Tensor], row: int, alternatives: dict[int, Any]) -> CompletionCredit:
        trainer, tokenizer = self._trainer, self._trainer._tokenizer
        scored = columns["mask"][row].bool()
        ids = columns["ids"][row][scored]
        names, weights = trainer.reward_func_names, trainer.reward_weights.tolist()
        values = columns[REWARDS][row].tolist() if REWARDS in columns else []
        rewards = dict(zip(names, values, strict=False))
        known = [weight * value for weight, value in zip(weights, values, strict=False) if value == value]
        return collect_completion(
            tokenizer,
            ids,
            {name: columns[name][row][scored] for name in (*PER_TOKEN, TOKEN) if name in columns},
            vocab_size=self._settings.vocab_size,
            trained=columns["trained"][row][scored],
            prompt_ids=columns["prompt_ids"][row][columns["prompt_mask"][row].bool()].tolist(),
            advantage=columns["advantage"][row].item(),
            rewards=rewards,
            reward=sum(known) if known else None,
            truncated=int(ids[-1]) not in (tokenizer.eos_token_id, tokenizer.pad_token_id),
            alternatives=alternatives,
            max_tokens=self.log.max_tokens,
        )
