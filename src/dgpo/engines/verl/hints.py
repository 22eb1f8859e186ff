"""Which hint each completion of a batch has, and its sequence with the hint in the prompt: in the trainer's process."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.tokenizer.chat_template import apply_chat_template
from verl.utils.tokenizer.tokenizer import normalize_token_ids

from dgpo.credit_log.answers import texts_as_tensor
from dgpo.engines.hints import best_sibling, cut_hint, hinted_prompt, template_of
from dgpo.engines.verl.config import DGPOSettings
from dgpo.engines.verl.credit import groups_of
from dgpo.engines.verl.hindsight import HINTED_IDS
from dgpo.engines.verl.queue import facts_of, fetch, store
from dgpo.errors import ConfigError, TrainingError

HINT = "dgpo_hint"
"""Field of the hints for the credit log, (B, L) uint8; a completion without one has an empty one."""

_GOLD = ("reward_model", "ground_truth")
_COLUMNS = "extra_info"


class Hints:
    """The hints of a run, for a rule that reads what a hinted reference thinks.

    Args:
        config: verl's whole configuration.
        tokenizer: The run's.
        settings: DGPO's.
    """

    def __init__(self, config: Any, tokenizer: Any, settings: DGPOSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._template_kwargs = config.data.get("apply_chat_template_kwargs") or {}
        rollout = config.actor_rollout_ref.rollout
        self._longest = rollout.log_prob_max_token_len_per_gpu if rollout.log_prob_use_dynamic_bsz else None

    @property
    def _place(self) -> tuple[str, str]:
        """Where a row of the data set has its hint: a field, and a name in it."""
        hint = self._settings.hint or "gold"
        return _GOLD if hint == "gold" else (_COLUMNS, hint)

    def check_dataset(self, row: Mapping[str, Any]) -> None:
        """Refuse a data set that has no place for the hints.

        Args:
            row: Its first one.

        Raises:
            ConfigError: Naming the place, and those that there are.
        """
        if self._settings.hint == "peer":
            return
        field, name = self._place
        there = row.get(field)
        if not isinstance(there, Mapping) or name not in there:
            names = f"holds {', '.join(map(str, there))}" if isinstance(there, Mapping) else "is not there"
            raise ConfigError(
                f"algorithm.dgpo.hint={self._settings.hint!r} reads {field}.{name} of the data set, whose {field}"
                f" {names}. Use 'gold' for reward_model.ground_truth, the name of an entry of extra_info, or 'peer',"
                " which shows a completion the solution of another one."
            )

    def put(self, batch: KVBatchMeta) -> tuple[list[bool], list[int]]:
        """Store each completion's hint, and its sequence after a prompt with the hint; without one, as it is.

        Args:
            batch: verl's, rewards and rows of padding included.

        Returns:
            Which rows have a hint, and the length of each stored sequence.

        Raises:
            TrainingError: If no prompt could be made with its hint, or a sequence with it has no room in a micro-batch.
        """
        hints = self._of(batch)
        data = fetch(batch, "prompts", "input_ids")
        rows = zip(
            hints, facts_of(batch, "raw_prompt"), data["prompts"].unbind(), data["input_ids"].unbind(), strict=True
        )
        sequences = [self._sequence(hint, facts.get("raw_prompt"), *ids) for hint, facts, *ids in rows]
        shown = [sequence is not None for sequence in sequences]
        if any(hints) and not any(shown):
            raise TrainingError(
                "No prompt of this batch is what the chat template makes of its messages (raw_prompt), so that none can"
                " be made with a hint: tools, images, an agent loop with prompts of its own, or prompts longer than"
                " rollout.prompt_length do this. Use a rule that reads no hint."
            )
        plain = data["input_ids"].unbind()
        told = [own if sequence is None else sequence for sequence, own in zip(sequences, plain, strict=True)]
        lengths = [len(sequence) for sequence in told]
        if self._longest is not None and max(lengths) > self._longest:
            raise TrainingError(
                f"A prompt with its hint and its completion have {max(lengths)} tokens, and a micro-batch holds"
                f" rollout.log_prob_max_token_len_per_gpu={self._longest}. Raise it, or lower"
                f" algorithm.dgpo.hint_max_length={self._settings.hint_max_length}."
            )
        texts = [hint if is_shown and hint else "" for hint, is_shown in zip(hints, shown, strict=True)]
        store(batch, **{HINTED_IDS: _nested(told), HINT: texts_as_tensor(texts)})
        return shown, lengths

    def _of(self, batch: KVBatchMeta) -> list[str | None]:
        """The hint of each row, cut; None where there is none, as in rows of padding."""
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        if self._settings.hint == "peer":
            texts = self._of_siblings(batch, is_padding)
        else:
            field, name = self._place
            found = [facts.get(field) for facts in facts_of(batch, field)]
            values = [value.get(name) if isinstance(value, Mapping) else None for value in found]
            texts = [None if value is None else str(value) for value in values]
        return [
            cut_hint(self._tokenizer, text, self._settings.hint_max_length) if text and not added else None
            for text, added in zip(texts, is_padding, strict=True)
        ]

    def _of_siblings(self, batch: KVBatchMeta, is_padding: Sequence[bool]) -> list[str | None]:
        data = fetch(batch, "responses", "rm_scores")
        responses = data["responses"].unbind()
        rewards = torch.stack([scores.float().sum() for scores in data["rm_scores"].unbind()])
        rewards = rewards.masked_fill(torch.tensor(is_padding), torch.nan)
        lengths = torch.tensor([len(response) for response in responses])
        rows = best_sibling(rewards, groups_of(batch.keys), lengths, self._settings.hint_min_reward)
        return [
            None if row is None else self._tokenizer.decode(responses[row], skip_special_tokens=True) for row in rows
        ]

    def _sequence(self, hint: str | None, messages: Any, prompt_ids: Tensor, sequence: Tensor) -> Tensor | None:
        """The prompt with the hint, and the response; None without a hint, or where the prompt was made otherwise."""
        if not hint or messages is None or self._ids(messages) != prompt_ids.tolist():
            return None
        told = hinted_prompt([dict(message) for message in messages], hint, template_of(self._settings))
        return torch.cat([sequence.new_tensor(self._ids(told)), sequence[len(prompt_ids) :]])

    def _ids(self, messages: Any) -> list[int]:
        """As verl's agent loop makes the first prompt of a conversation."""
        ids = apply_chat_template(self._tokenizer, list(messages), **self._template_kwargs)
        return [int(index) for index in normalize_token_ids(ids)]


def _nested(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
