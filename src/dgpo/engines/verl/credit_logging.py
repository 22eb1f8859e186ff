"""Writes the credit log of a verl run from the trainer's process, for `dgpo report`."""

import logging
from typing import Any

import torch
import transfer_queue as tq
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from dgpo.credit_log import CompletionCredit, CreditLog, CreditSettings
from dgpo.credit_log.collect import collect_completion
from dgpo.engines.verl.config import DGPOSettings
from dgpo.engines.verl.credit import BatchCredit

logger = logging.getLogger(__name__)

_STATISTICS = {
    "hellinger_sq": "hellinger_sq",
    "entropy": "entropy",
    "old_log_probs": "logps",
    "ref_log_probs": "ref_logps",
}
_WHOLE_SEQUENCES = ("hellinger_sq", "ref_log_probs")


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
        heading = CreditSettings(
            settings.tau, settings.kappa, vocab_size, "verl", settings.credit_policy, float(rollout.temperature)
        )
        self._log = CreditLog(
            config.trainer.default_local_dir,
            heading,
            every=settings.credit_log_steps,
            max_completions=settings.credit_log_completions,
        )
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._longest = int(rollout.response_length)
        self._last_step = config.trainer.get("total_training_steps")

    def start(self, step: int) -> None:
        """Begin after a step: 0 for a new run, that of the checkpoint for a resumed one."""
        self._log.start(step)

    def log(self, batch: KVBatchMeta, step: int, credit: BatchCredit) -> None:
        """Write a step if it is due; what fails here is said and stops nothing."""
        if not (self._log.is_due(step) or step == self._last_step):
            return
        try:
            real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
            count = min(self._log.max_completions, len(real))
            rows = [real[index * len(real) // count] for index in range(count)]
            self._log.write(step, self._completions(batch, rows, credit), out_of=len(real))
        except Exception:  # a view of the training must not end it
            logger.warning("The credit of step %d could not be logged.", step, exc_info=True)

    def _completions(self, batch: KVBatchMeta, rows: list[int], credit: BatchCredit) -> list[CompletionCredit]:
        names = ["prompts", "responses", "response_mask", "rm_scores", "advantages", *_STATISTICS]
        data = tq.kv_batch_get(
            keys=[batch.keys[row] for row in rows], partition_id=batch.partition_id, select_fields=names
        )
        for name in _WHOLE_SEQUENCES:
            data[name] = response_from_nested(data[name], data["response_mask"])
        columns = {name: data[name].unbind() for name in names}
        return [
            self._completion({name: values[index] for name, values in columns.items()}, credit, row)
            for index, row in enumerate(rows)
        ]

    def _completion(self, columns: dict[str, Tensor], credit: BatchCredit, row: int) -> CompletionCredit:
        ids, trained = columns["responses"], columns["response_mask"].bool()
        per_token = {ours: columns[name] for name, ours in _STATISTICS.items()}
        per_token |= {"weights": credit.weights[row, : len(ids)], "scores": credit.scores[row, : len(ids)]}
        reward = columns["rm_scores"].sum().item()
        return collect_completion(
            self._tokenizer,
            ids,
            per_token,
            vocab_size=self._vocab_size,
            trained=trained,
            prompt_ids=columns["prompts"].tolist(),
            advantage=_advantage(columns["advantages"], trained),
            rewards={"reward": reward},
            reward=reward,
            truncated=len(ids) >= self._longest and int(ids[-1]) != self._tokenizer.eos_token_id,
            max_tokens=self._log.max_tokens,
        )


def _advantage(token_advantages: Tensor, trained: Tensor) -> float | None:
    """Return the completion's advantage: the mean of its tokens' advantages, since the weights have mean 1."""
    if not trained.any():
        return None
    return torch.where(trained, token_advantages, 0.0).sum().item() / int(trained.sum())
