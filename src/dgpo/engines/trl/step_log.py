"""Which completions of a step are logged, and how they become a file when the step is over.

On the main process alone, from its own completions. TRL shuffles a rollout and cuts it into micro-batches: the rows are
chosen once, at the first micro-batch of a step, so that the completions of a prompt stay together. While the step is
computed, rows are picked on the device; they are read back when the optimizer has made its step. The steps in between
cost nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from dgpo.core import Credit
from dgpo.credit_log import CompletionCredit, CreditLog
from dgpo.credit_log.answers import texts_as_text
from dgpo.credit_log.collect import (
    TOKEN_ADVANTAGES,
    alternatives_at,
    collect_completion,
    reason_it_ended,
    rows_of_whole_groups,
)
from dgpo.credit_log.trackers import send_tables
from dgpo.engines.trl.likeliest import LikeliestTokens
from dgpo.engines.trl.rollout import AGREEMENT, ANSWER, CONTROL, GROUP, HINT, REWARDS

logger = logging.getLogger(__name__)

SAMPLING_LOG_RATIO = "sampling_log_ratio"
"""Column of a token's log-probability under the policy less that under the policy that sampled."""

_INPUTS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"),
    *(GROUP, REWARDS, ANSWER, HINT, CONTROL, AGREEMENT),
)


@dataclass
class PickedRows:
    """Completions of one batch that are to be logged, on their device.

    Attributes:
        inputs: Their part of TRL's inputs of the loss.
        trained: (B, T) bool, True where a token is trained.
        per_token: (B, T) float by name, as `collect_completion` takes them.
        likeliest: Of some of their tokens, by the row among these.
    """

    inputs: dict[str, Tensor]
    trained: Tensor
    per_token: dict[str, Tensor] = field(default_factory=dict)
    likeliest: list[LikeliestTokens] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        rows: Sequence[int],
        inputs: Mapping[str, Any],
        trained: Tensor,
        per_token: Mapping[str, Tensor],
        likeliest: Sequence[LikeliestTokens],
    ) -> "PickedRows":
        """Return the rows of a batch; `per_token` and `likeliest` are of the whole batch."""
        index, place = torch.tensor(rows, device=trained.device), {row: i for i, row in enumerate(rows)}
        return cls(
            {name: inputs[name][index.to(inputs[name].device)] for name in _INPUTS if name in inputs},
            trained[index],
            {name: values.detach()[index] for name, values in per_token.items()},
            [LikeliestTokens(place[one.row], one.positions, one.top) for one in likeliest if one.row in place],
        )

    def cpu(self) -> "PickedRows":
        """Return a copy in the memory of the processor; `likeliest` is read back with the places."""
        inputs, per_token = ({name: x.cpu() for name, x in part.items()} for part in (self.inputs, self.per_token))
        return PickedRows(inputs, self.trained.cpu(), per_token, self.likeliest)

    @property
    def rewards(self) -> Tensor | None:
        """Each function's reward, (B, functions); None where it is not known."""
        return self.inputs.get(REWARDS)


class StepLog(TrainerCallback):
    """Chooses the completions of a `GRPOTrainer`'s steps that are logged, and writes them.

    Args:
        trainer: The trainer; its state says which step is made.
        log: Where they are written.
    """

    def __init__(self, trainer: Any, log: CreditLog) -> None:
        self.log = log
        self._trainer = trainer
        self._picked: list[PickedRows] = []
        self._plan: list[tuple[Mapping[str, Any], list[int]]] = []  # micro-batches of a step, and rows of them
        self._step, self._end = 0, 0  # the step that is planned, and TRL's count of micro-batches after it
        self._room = 0  # completions that the step may still add
        self._seen = 0  # completions of the step on this process, picked or not

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the log from the step that the run starts at."""
        self.log.start(state.global_step)

    def is_due(self, steps_ahead: int = 0) -> bool:
        """Return whether the step that is being made, or one of so many after it, is to be logged."""
        state = self._trainer.state
        last = state.global_step + 1 + steps_ahead
        ends = state.global_step < state.max_steps <= last
        return bool(self._trainer.model.training and (self.log.is_due(last) or ends))

    def rows_of(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return which rows of a batch that is about to be scored are logged; none where the step is not due.

        Args:
            inputs: TRL's inputs of the loss, or of a whole rollout.

        Returns:
            Rows of whole groups: of all micro-batches of the step together, where it is one of them.
        """
        if not self.is_due():
            return []
        trainer = self._trainer
        self._seen += len(inputs["completion_ids"])
        buffer = trainer._buffered_inputs or []
        index = next((i for i, batch in enumerate(buffer) if batch is inputs), None)
        if index is None:
            return self._choose([inputs], self.log.max_completions)[0]
        if self._step != trainer.state.global_step + 1:
            self._step, self._plan, self._room = trainer.state.global_step + 1, [], self.log.max_completions
            self._end = trainer._step + trainer.current_gradient_accumulation_steps
        place = next((i for i, (batch, _) in enumerate(self._plan) if batch is inputs), len(self._plan))
        # A step may contain several rollouts; of a later one, whole groups are added where there is room.
        if place == len(self._plan) and self._room >= (trainer.num_generations if self._plan else 1):
            batches = buffer[index : index + max(1, self._end - trainer._step)]
            chosen = self._choose(batches, self._room)
            self._plan += zip(batches, chosen, strict=True)
            self._room -= sum(map(len, chosen))
        if place == len(self._plan):
            return []
        batch, rows = self._plan[place]
        self._plan[place] = (batch, [])  # several updates of a batch in one step are logged once
        return rows

    def _choose(self, batches: Sequence[Mapping[str, Any]], room: int) -> list[list[int]]:
        """Choose rows of whole groups of some batches together, and return those of each batch."""
        sizes = [len(batch["completion_ids"]) for batch in batches]
        # Batches that were made by hand have no groups: all of them are one.
        groups = [batch[GROUP].tolist() if GROUP in batch else [0] * len(batch["completion_ids"]) for batch in batches]
        advantages = torch.cat([advantages_of(batch) for batch in batches]).tolist()
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        chosen: list[list[int]] = [[] for _ in batches]
        for row in sorted(rows_of_whole_groups([group for part in groups for group in part], advantages, room)):
            place = next(i for i, end in enumerate(starts[1:]) if row < end)
            chosen[place].append(row - starts[place])
        return chosen

    def keep(self, picked: PickedRows) -> None:
        """Keep completions until the step is over."""
        self._picked.append(picked)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was kept during the step."""
        picked, self._picked, self._plan = self._picked, [], []
        seen, self._seen = self._seen, 0
        if not picked:
            return
        try:
            completions = self._completions([part.cpu() for part in picked])
            self.log.write(state.global_step, completions, out_of=seen * self._trainer.accelerator.num_processes)
        except Exception:  # a view of the training must not end it
            logger.warning("The credit of step %d could not be logged.", state.global_step, exc_info=True)
            return
        try:
            writers = (getattr(callback, "tb_writer", None) for callback in self._trainer.callback_handler.callbacks)
            boards = [board for board in writers if board is not None]
            send_tables(state.global_step, completions, trackers=args.report_to or [], boards=boards)
        except Exception:  # the file is written
            logger.warning("A tracker did not take the credit of step %d.", state.global_step, exc_info=True)

    def _completions(self, parts: Sequence[PickedRows]) -> list[CompletionCredit]:
        completions = []
        for part in parts:
            alternatives: list[dict[int, Any]] = [{} for _ in part.trained]
            for places in part.likeliest:
                alternatives[places.row] |= alternatives_at(places.positions.tolist(), places.top)
            texts = {
                name: texts_as_text(part.inputs[key]) if key in part.inputs else [None] * len(alternatives)
                for name, key in (("answer", ANSWER), ("hint", HINT), ("control", CONTROL))
            }
            # Where TRL masks cut-off completions, nothing of them is scored and there is nothing to show.
            scored = part.inputs["completion_mask"].any(-1).tolist()
            rows = [row for row, is_scored in enumerate(scored) if is_scored]
            for row in rows:
                given = {name: each[row] for name, each in texts.items()}
                completions.append(self._completion(part, row, given, alternatives[row]))
        groups: list[Any] = [completion.group for completion in completions]
        advantages = [completion.advantage or 0.0 for completion in completions]
        order = rows_of_whole_groups([groups.index(group) for group in groups], advantages, len(groups))
        return [completions[row] for row in order]

    def _completion(
        self, part: PickedRows, row: int, texts: Mapping[str, str | None], alternatives: dict[int, Any]
    ) -> CompletionCredit:
        trainer, inputs = self._trainer, part.inputs
        scored = inputs["completion_mask"][row].bool()
        ids = inputs["completion_ids"][row][scored]
        weights = trainer.reward_weights.tolist()
        values = [] if part.rewards is None else part.rewards[row].tolist()
        known = [weight * value for weight, value in zip(weights, values, strict=False) if value == value]
        return collect_completion(
            trainer._tokenizer,
            ids,
            {name: column[row][scored] for name, column in part.per_token.items()},
            vocab_size=self.log.settings.vocab_size,
            trained=part.trained[row][scored],
            prompt_ids=inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist(),
            advantage=advantages_of(inputs)[row].item(),
            rewards=dict(zip(trainer.reward_func_names, values, strict=False)),
            reward=sum(known) if known else None,
            answer=texts["answer"],
            hint=texts["hint"],
            control=texts["control"],
            hint_agreement=inputs[AGREEMENT][row].item() if texts["hint"] and AGREEMENT in inputs else None,
            group=int(inputs[GROUP][row]) if GROUP in inputs else None,
            ended=reason_it_ended(ids.tolist(), self._eos_ids()),
            alternatives=alternatives,
            max_tokens=self.log.max_tokens,
        )

    def _eos_ids(self) -> set[int]:
        """Every token that ends a completion; like TRL, the padding token counts as one."""
        trainer = self._trainer
        given = (trainer.args.generation_kwargs or {}).get("eos_token_id", [])
        given = given if isinstance(given, list | tuple) else [given]
        return {*trainer.eos_token_ids, *given, trainer._tokenizer.pad_token_id}


def advantages_of(inputs: Mapping[str, Any]) -> Tensor:
    """Return the advantages of completions, (B,); the mean where a trainer gives each token one of its own."""
    advantages: Tensor = inputs["advantages"]
    if advantages.dim() > 1:
        mask = inputs["completion_mask"]
        advantages = (advantages * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return advantages


def given_columns(credit: Credit) -> dict[str, Tensor]:
    """Return what a rule gave, (B, T) by the names of `collect_completion`, its own columns included."""
    scores = {} if credit.scores is None else {"scores": credit.scores}
    given = {TOKEN_ADVANTAGES: credit.token_advantages} if credit.weights is None else {"weights": credit.weights}
    return {**credit.columns, **scores, **given}
