"""Writes the credit log of a verl run from the trainer's process, for `dgpo report`."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.model import get_generation_config

from dgpo.core.assign import Credit
from dgpo.core.token_stats import HINDSIGHT_STATS, TokenStats
from dgpo.credit_log import CompletionCredit, CreditLog, CreditSettings
from dgpo.credit_log.answers import VERL_ANSWER, gold_answer, texts_as_text
from dgpo.credit_log.collect import collect_completion, reason_it_ended, rows_of_whole_groups
from dgpo.credit_log.record import EOS
from dgpo.engines.verl.config import DGPOSettings
from dgpo.engines.verl.hints import CONTROL, HINT
from dgpo.engines.verl.queue import facts_of, fetch

logger = logging.getLogger(__name__)


class CreditLogging:
    """The credit log of a run, in `trainer.default_local_dir`/credit.

    Args:
        config: verl's whole configuration.
        tokenizer: The run's tokenizer.
        settings: DGPO's settings.
        vocab_size: V.
    """

    def __init__(self, config: Any, tokenizer: Any, settings: DGPOSettings, vocab_size: int) -> None:
        rollout = config.actor_rollout_ref.rollout
        header = CreditSettings(
            **settings.rule.describe(),
            vocab_size=vocab_size,
            engine="verl",
            credit_policy=settings.credit_policy,
            temperature=float(rollout.temperature),
        )
        self._log = CreditLog(
            config.trainer.default_local_dir,
            header,
            every=settings.credit_log_steps,
            max_completions=settings.credit_log_completions,
        )
        self._tokenizer, self._model = tokenizer, config.actor_rollout_ref.model
        self._longest = int(rollout.response_length)
        self._last_step = config.trainer.get("total_training_steps")

    @cached_property
    def _eos_ids(self) -> set[int]:
        """Every token that ends a response: that of the tokenizer, and those of the model's generation config."""
        config = get_generation_config(self._model.path, trust_remote_code=self._model.get("trust_remote_code", False))
        given = [] if config is None else config.eos_token_id
        given = given if isinstance(given, list) else [given]
        return {token for token in (self._tokenizer.eos_token_id, *given) if token is not None}

    def start(self, step: int) -> None:
        """Begin after a step: 0 for a new run, that of the checkpoint for a resumed one."""
        self._log.start(step)

    def is_due(self, step: int) -> bool:
        """Return whether a step is logged, for which all of its completions must be scored."""
        return bool(self._log.is_due(step)) or step == self._last_step

    def log(self, batch: KVBatchMeta, step: int, stats: TokenStats, credit: Credit) -> None:
        """Write a step if it is due; what fails here is logged and stops nothing.

        Args:
            batch: verl's batch, rows of padding included.
            step: The step that is being made.
            stats: Of the rows of the batch.
            credit: Likewise.
        """
        if not self.is_due(step):
            return
        try:
            assert stats.group is not None
            real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
            groups, advantages = stats.group.tolist(), stats.advantages.tolist()
            chosen = rows_of_whole_groups(
                [groups[row] for row in real], [advantages[row] for row in real], self._log.max_completions
            )
            rows = [real[index] for index in chosen]
            keys = [batch.keys[row] for row in rows]
            data = fetch(batch, "prompts", "responses", HINT, CONTROL, keys=keys)
            hints, controls = (
                texts_as_text(torch.stack(data[name].unbind())) if name in data else [None] * len(keys)
                for name in (HINT, CONTROL)
            )
            facts = facts_of(batch, "reward_model", "extra_fields", keys=keys)
            texts = zip(rows, data["prompts"].unbind(), data["responses"].unbind(), facts, hints, controls, strict=True)
            completions = [self._completion(stats, credit, *text) for text in texts]
            self._log.write(step, completions, out_of=len(real))
        except Exception:  # a view of the training must not end it
            logger.warning("The credit of step %d could not be logged.", step, exc_info=True)

    def _completion(
        self,
        stats: TokenStats,
        credit: Credit,
        row: int,
        prompt_ids: Tensor,
        ids: Tensor,
        facts: Mapping[str, Any],
        hint: str | None,
        control: str | None,
    ) -> CompletionCredit:
        """Return one row for the log; what was not computed, such as distances without a reference, is left out."""
        per_token = {
            **credit.columns,
            "weights": credit.weights,
            "token_advantages": credit.token_advantages if credit.weights is None else None,
            "scores": credit.scores,
            "hellinger_sq": stats.hellinger_sq,
            "entropy": stats.entropy,
            "logps": stats.logps,
            "ref_logps": stats.ref_logps,
            **{name: getattr(stats, name) for name in HINDSIGHT_STATS},
        }
        trained = stats.completion_mask[row, : len(ids)]
        assert stats.rewards is not None
        assert stats.group is not None
        reward = stats.rewards[row].item()
        return collect_completion(
            self._tokenizer,
            ids,
            {name: values[row, : len(ids)] for name, values in per_token.items() if values is not None},
            vocab_size=stats.vocab_size,
            trained=trained,
            prompt_ids=prompt_ids.tolist(),
            advantage=stats.advantages[row].item() if trained.any() else None,
            rewards={"reward": reward, **_extra_rewards(facts)},
            reward=reward,
            answer=gold_answer(facts, VERL_ANSWER),
            hint=hint,
            control=control,
            hint_agreement=stats.hint_agreement[row].item() if hint and stats.hint_agreement is not None else None,
            group=int(stats.group[row]),
            ended=self._reason(ids.tolist()),
            max_tokens=self._log.max_tokens,
        )

    def _reason(self, ids: Sequence[int]) -> str | None:
        """Why a response ended; None where an agent loop ended it otherwise."""
        reason = reason_it_ended(ids, self._eos_ids)
        return reason if reason == EOS or len(ids) >= self._longest else None


def _extra_rewards(facts: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a reward function returned beside the score."""
    extra = facts.get("extra_fields")
    info = extra.get("reward_extra_info") if isinstance(extra, Mapping) else None
    return {str(name): float(x) for name, x in (info or {}).items() if isinstance(x, bool | int | float)}
