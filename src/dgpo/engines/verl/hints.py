"""Which hint each completion of a batch has, and its sequence with the hint in the prompt: in the trainer's process."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.tokenizer.chat_template import apply_chat_template
from verl.utils.tokenizer.tokenizer import normalize_token_ids

from dgpo.credit_log.answers import texts_as_tensor
from dgpo.engines.hints import OTHER, PLAIN, best_sibling, cut_hints, hint_text, hinted_prompt, other_hints, template_of
from dgpo.engines.verl.config import DGPOSettings
from dgpo.engines.verl.credit import groups_of
from dgpo.engines.verl.hindsight import COMPARED_IDS, HINTED_IDS
from dgpo.engines.verl.queue import facts_of, fetch, store
from dgpo.errors import ConfigError, TrainingError

HINT, CONTROL = "dgpo_hint", "dgpo_hint_control"
"""Fields of the hints for the credit log, and of what they are compared with, (B, L) uint8; a completion without a hint
has an empty one."""

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
        if self._settings.hint != "peer":
            remedy = (
                "'gold' for reward_model.ground_truth, the name of an entry of extra_info, or 'peer', which shows a"
                " completion the solution of another one"
            )
            _check_place(row, *self._place, f"hint={self._settings.hint!r}", remedy)
        control = self._settings.hint_control
        if control not in (OTHER, PLAIN):
            remedy = "the name of an entry of extra_info, or 'other' for the hint of another prompt"
            _check_place(row, _COLUMNS, str(control), f"hint_control={control!r}", remedy)

    def put(self, batch: KVBatchMeta) -> tuple[list[bool], list[int]]:
        """Store each completion's hint, its sequence after a prompt with it, and the one that this is compared with.

        Without a hint, or without another one where hints are compared with others, both are the sequence as it is.

        Args:
            batch: verl's, rewards and rows of padding included.

        Returns:
            Which rows have a hint, and the length of each longer one of its two sequences.

        Raises:
            TrainingError: If no prompt could be made with its hint, or a sequence with it has no room in a micro-batch.
        """
        hints, controls = self._of(batch), None
        if self._settings.hint_control != PLAIN:
            controls = self._controls(batch, hints)
            hints = [None if control is None else hint for hint, control in zip(hints, controls, strict=True)]
        data = fetch(batch, "prompts", "input_ids")
        prompts, plain = data["prompts"].unbind(), data["input_ids"].unbind()
        messages = [facts.get("raw_prompt") for facts in facts_of(batch, "raw_prompt")]

        def sequences_with(texts: Sequence[str | None]) -> list[Tensor | None]:
            return [self._sequence(*row) for row in zip(texts, messages, prompts, plain, strict=True)]

        sequences = sequences_with(hints)
        compared: Sequence[Tensor | None] = plain if controls is None else sequences_with(controls)
        shown = [one is not None and other is not None for one, other in zip(sequences, compared, strict=True)]
        if any(hints) and not any(shown):
            raise TrainingError(
                "No prompt of this batch is what the chat template makes of its messages (raw_prompt), so that none can"
                " be made with a hint: tools, images, an agent loop with prompts of its own, or prompts longer than"
                " rollout.prompt_length do this. Use a rule that reads no hint."
            )
        told, others = (
            [
                one if is_shown and one is not None else own
                for one, is_shown, own in zip(made, shown, plain, strict=True)
            ]
            for made in (sequences, compared)
        )
        lengths = [max(map(len, pair)) for pair in zip(told, others, strict=True)]
        if self._longest is not None and max(lengths) > self._longest:
            raise TrainingError(
                f"A prompt with its hint and its completion have {max(lengths)} tokens, and a micro-batch holds"
                f" rollout.log_prob_max_token_len_per_gpu={self._longest}. Raise it, or lower"
                f" algorithm.dgpo.hint_max_length={self._settings.hint_max_length}."
            )
        logged = {
            name: texts_as_tensor([text if is_shown else none for text, is_shown in zip(texts, shown, strict=True)])
            for name, texts, none in ((HINT, hints, ""), (CONTROL, controls or [None] * len(hints), None))
        }
        store(batch, **{HINTED_IDS: _nested(told), COMPARED_IDS: _nested(others)}, **logged)
        return shown, lengths

    def _of(self, batch: KVBatchMeta) -> list[str | None]:
        """The hint of each row, cut; None where there is none, as in rows of padding."""
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        from_siblings = self._settings.hint == "peer"
        cut = self._cut(self._of_siblings(batch, is_padding) if from_siblings else _texts(batch, *self._place))
        return [None if added else text for text, added in zip(cut, is_padding, strict=True)]

    def _controls(self, batch: KVBatchMeta, hints: Sequence[str | None]) -> list[str | None]:
        """What each hint is compared with."""
        control = str(self._settings.hint_control)
        if control == OTHER:
            return other_hints(hints, groups_of(batch.keys).tolist())
        return self._cut(_texts(batch, _COLUMNS, control))

    def _cut(self, texts: Sequence[str | None]) -> list[str | None]:
        return cut_hints(self._tokenizer, texts, self._settings.hint_max_length)

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


def _check_place(row: Mapping[str, Any], field: str, name: str, setting: str, remedy: str) -> None:
    there = row.get(field)
    if not isinstance(there, Mapping) or name not in there:
        names = f"holds {', '.join(map(str, there))}" if isinstance(there, Mapping) else "is not there"
        raise ConfigError(
            f"algorithm.dgpo.{setting} reads {field}.{name} of the data set, whose {field} {names}. Use {remedy}."
        )


def _texts(batch: KVBatchMeta, field: str, name: str) -> list[str | None]:
    """An entry of a field of each row's data, None where there is none."""
    found = [facts.get(field) for facts in facts_of(batch, field)]
    values = [value.get(name) if isinstance(value, Mapping) else None for value in found]
    return [hint_text(value) for value in values]


def _nested(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
