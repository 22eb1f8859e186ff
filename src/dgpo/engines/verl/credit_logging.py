"""Writes the credit log of a verl run from the trainer's process, for `dgpo report`."""

import logging
from typing import Any

import transfer_queue as tq
from torch import Tensor
from transfer_queue import KVBatchMeta

from dgpo.core.assign import Credit
from dgpo.core.token_stats import TokenStats
from dgpo.credit_log import CompletionCredit, CreditLog, CreditSettings
from dgpo.credit_log.collect import collect_completion, evenly_spread
from dgpo.engines.verl.config import DGPOSettings

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
        self._tokenizer = tokenizer
        self._longest = int(rollout.response_length)
        self._last_step = config.trainer.get("total_training_steps")

    def start(self, step: int) -> None:
        """Begin after a step: 0 for a new run, that of the checkpoint for a resumed one."""
        self._log.start(step)

    def log(self, batch: KVBatchMeta, step: int, stats: TokenStats, credit: Credit) -> None:
        """Write a step if it is due; what fails here is logged and stops nothing.

        Args:
            batch: verl's batch, rows of padding included.
            step: The step that is being made.
            stats: Of the rows of the batch.
            credit: Likewise.
        """
        if not (self._log.is_due(step) or step == self._last_step):
            return
        try:
            real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
            rows = [real[index] for index in evenly_spread(self._log.max_completions, len(real))]
            data = tq.kv_batch_get(
                keys=[batch.keys[row] for row in rows],
                partition_id=batch.partition_id,
                select_fields=["prompts", "responses"],
            )
            texts = zip(rows, data["prompts"].unbind(), data["responses"].unbind(), strict=True)
            completions = [self._completion(stats, credit, row, prompt, ids) for row, prompt, ids in texts]
            self._log.write(step, completions, out_of=len(real))
        except Exception:  # a view of the training must not end it
            logger.warning("The credit of step %d could not be logged.", step, exc_info=True)

    def _completion(
        self, stats: TokenStats, credit: Credit, row: int, prompt_ids: Tensor, ids: Tensor
    ) -> CompletionCredit:
        """Return one row for the log; what was not computed, such as distances without a reference, is left out."""
        per_token = {
            "weights": credit.weights,
            "token_advantages": credit.token_advantages if credit.weights is None else None,
            "scores": credit.scores,
            "hellinger_sq": stats.hellinger_sq,
            "entropy": stats.entropy,
            "logps": stats.logps,
            "ref_logps": stats.ref_logps,
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
            rewards={"reward": reward},
            reward=reward,
            group=int(stats.group[row]),
            truncated=len(ids) >= self._longest and int(ids[-1]) != self._tokenizer.eos_token_id,
            max_tokens=self._log.max_tokens,
        )
