"""verl's trainers with DGPO's token advantages, under `trainer.v1.trainer_mode=dgpo` and `dgpo_colocate_async`.

The way of a token, in the order of the methods: a pass over policy and reference gives its statistics
(`_compute_old_log_prob`), verl computes the advantage of its completion, a rule gives it its share of that
(`_compute_advantage`), and verl's loss reads the result.
"""

import logging
from typing import Any

import ray
import torch
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.utils.padding import response_from_nested, response_to_nested

from dgpo.core import HINDSIGHT_STATS
from dgpo.core.assign import Credit, assign_credit
from dgpo.core.hindsight import hint_metrics, hint_pairs, hint_totals
from dgpo.core.token_stats import TokenStats
from dgpo.engines.hint_monitor import HintMonitor
from dgpo.engines.inert import InertMonitor
from dgpo.engines.verl.checks import check_config
from dgpo.engines.verl.compat import check_verl_version
from dgpo.engines.verl.config import SEPARATE_ASYNC, TRAINER_MODES, prepare_config, read_settings
from dgpo.engines.verl.credit import FIELDS, REFERENCE_FIELDS, check_finite, token_stats
from dgpo.engines.verl.credit_logging import CreditLogging
from dgpo.engines.verl.engine import CREDIT_PASS
from dgpo.engines.verl.hindsight import HINT_FIELDS, HINT_PASS
from dgpo.engines.verl.hints import Hints
from dgpo.engines.verl.live import SCORED, SKIP, readers_in_scoring, readers_in_update, rows_to_score
from dgpo.engines.verl.queue import fetch, store
from dgpo.engines.verl.untested import untested_options
from dgpo.engines.verl.worker import DGPOWorker
from dgpo.errors import TrainingError

logger = logging.getLogger(__name__)

_COMPARED = ("hellinger_sq", "ref_logps")
"""Fields of `TokenStats` for which policy and reference are compared."""

_SAME_POLICY = 1e-6
"""Largest squared Hellinger distance that rounding alone explains."""


class CreditStages(PPOTrainer):
    """The stages of a step in which each token gets its share of the completion's advantage, for any trainer of verl's.

    The pass of old log-probabilities scores policy and reference together; a separate pass of the reference is not
    made. The credit is fixed from it, however many updates follow. Where neither the rule nor a KL penalty reads the
    reference, none is built. For a rule that reads a hint, one more pass compares the reference with itself.
    """

    def __init__(self, config: Any) -> None:
        check_verl_version()
        check_config(config)
        self._settings = read_settings(config)
        self._pays_kl = need_reference_policy(config)
        # What a hint says of a completion is known without the policy.
        self._compares = self._pays_kl or bool(set(self._settings.rule.traits.reads) & set(_COMPARED))
        self._hints: Hints | None = None
        self._readers = readers_in_update(config, self._settings), readers_in_scoring(config, self._settings)
        self._say_what_is_uncertain(config)
        prepare_config(config)
        self._inert_monitor = InertMonitor.of(self._settings.rule, self._settings.inert_warning_steps)
        self._hint_monitor = HintMonitor(self._settings.hint)
        self._credit_logging: CreditLogging | None = None
        self._vocab_size = 0
        super().__init__(config)

    def _say_what_is_uncertain(self, config: Any) -> None:
        """Name what was never run, in one line, and what keeps completions without advantage in the passes."""
        untested = untested_options(config)
        if untested:
            logger.warning("DGPO has not been run with %s; watch dgpo/* from step 1.", ", ".join(untested))
        if self._readers[1]:
            logger.info("Completions with advantage 0 are scored as well: %s.", ", ".join(self._readers[1]))

    def _init_resource_pool_mgr(self) -> None:
        """Let verl choose roles and pools, and put DGPO's worker in the place of its own."""
        super()._init_resource_pool_mgr()
        replaced = [role for role in (Role.ActorRolloutRef, Role.ActorRollout) if role in self.role_worker_mapping]
        for role in replaced:
            self.role_worker_mapping[role] = ray.remote(DGPOWorker)
        if not replaced:
            raise TrainingError(
                f"verl has no worker that holds the policy; its roles are {[*self.role_worker_mapping]}."
            )

    def _init_dataloader(self) -> None:
        """Let verl load the data, and refuse those without the hints that the rule reads before a worker starts."""
        super()._init_dataloader()
        if self._settings.rule.traits.needs_hint:
            self._hints = Hints(self.config, self.tokenizer, self._settings)
            self._hints.check_dataset(self.train_dataset[0])

    def on_init_end(self) -> None:
        """Ask every worker whether DGPO is active there, and begin the credit log."""
        super().on_init_end()
        facts = self.actor_rollout_wg.dgpo_facts()
        if any(fact != facts[0] for fact in facts):
            raise TrainingError(f"The workers do not run the same DGPO: {facts}. Install one version on all nodes.")
        self._vocab_size = facts[0]["vocab_size"]
        if self._settings.credit_log_steps:
            self._credit_logging = CreditLogging(self.config, self.tokenizer, self._settings, self._vocab_size)
            self._credit_logging.start(self.global_steps)

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Score the completions, and those with a hint once more by the reference that is shown it."""
        batch = self._score_needed(batch, metrics)
        if self._hints is not None:
            self._score_hinted(batch, self._hints)
        return batch

    def _score_needed(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Score the completions with an advantage, which rewards decide; all of them where something reads them."""
        rows = self._rows_to_score(batch)
        if len(rows) == len(batch):
            return self._score(batch, metrics)
        self._score(batch.select_keys([batch.keys[row] for row in rows]), metrics)
        scored = torch.zeros(len(batch), dtype=torch.bool)
        scored[rows] = True
        others = batch.select_keys([key for key, was in zip(batch.keys, scored, strict=True) if not was])
        lengths = fetch(others, "input_ids", "response_mask")
        sequences, responses = (torch.zeros_like(lengths[name].float()) for name in ("input_ids", "response_mask"))
        zeros = dict.fromkeys(("log_probs", *REFERENCE_FIELDS) if self._compares else ("log_probs",), sequences)
        store(others, **zeros, old_log_probs=responses, entropy=responses)
        store(batch, **{SCORED: scored})
        return batch

    def _rows_to_score(self, batch: KVBatchMeta) -> list[int]:
        is_logged = self._credit_logging is not None and self._credit_logging.is_due(self.global_steps)
        if self._readers[1] or is_logged:
            return list(range(len(batch)))
        super()._compute_advantage(batch, {})
        live = [bool(row.any()) for row in fetch(batch, "advantages")["advantages"].unbind()]
        return self._with_others(batch, live, [tag["seq_len"] for tag in batch.tags])

    def _with_others(self, batch: KVBatchMeta, live: list[bool], lengths: list[int]) -> list[int]:
        """Return rows, and as many others as fill the micro-batches of a forward-only pass up."""
        rollout = self.config.actor_rollout_ref.rollout
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        micro_batch = 1 if rollout.log_prob_use_dynamic_bsz else rollout.log_prob_micro_batch_size_per_gpu
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        return rows_to_score(live, lengths, is_padding, ranks=ranks, multiple=ranks * micro_batch)

    def _score_hinted(self, batch: KVBatchMeta, hints: Hints) -> None:
        """Let the reference score the completions that have a hint, after it and after what it is compared with."""
        shown, lengths = hints.put(batch)
        if any(shown):
            part = batch.select_keys([batch.keys[row] for row in self._with_others(batch, shown, lengths)])
            temperature = self.config.actor_rollout_ref.rollout.temperature
            options = {HINT_PASS: True, "compute_loss": False, "temperature": temperature}
            part.fields, part.extra_info = list(HINT_FIELDS), {**batch.extra_info, **options}  # of this pass alone
            self.actor_rollout_wg.compute_log_prob(part)
        without = [key for key, has_hint in zip(batch.keys, shown, strict=True) if not has_hint]
        if without:  # those that filled micro-batches up among them
            others = batch.select_keys(without)
            zeros = torch.zeros_like(fetch(others, "response_mask")["response_mask"].float())
            store(others, **dict.fromkeys(HINDSIGHT_STATS, zeros))

    def _score(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Let verl score the policy, with the reference beside it where something compares the two."""
        if not self._compares:
            return super()._compute_old_log_prob(batch, metrics)
        batch.extra_info[CREDIT_PASS] = True
        try:
            scored = super()._compute_old_log_prob(batch, metrics)
        finally:
            batch.extra_info.pop(CREDIT_PASS, None)
        scored.extra_info.pop(CREDIT_PASS, None)
        return scored

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Make no pass: the reference has been scored. Its log-probabilities are needed where a KL penalty is paid."""
        if self._pays_kl:
            data = fetch(batch, "ref_log_probs", "response_mask")
            store(batch, ref_log_prob=response_from_nested(data["ref_log_probs"], data["response_mask"]))
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Let verl compute the completions' advantages, and redistribute them over the tokens by the rule."""
        batch = super()._compute_advantage(batch, metrics)
        fields = FIELDS + (REFERENCE_FIELDS if self._compares else ()) + (HINDSIGHT_STATS if self._hints else ())
        data = fetch(batch, *fields, SCORED)  # after verl's rejection of samples, which changes the mask
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        stats = token_stats(data, batch.keys, vocab_size=self._vocab_size, is_padding=is_padding)
        scored = torch.tensor(is_padding).logical_not()
        num_completions = int(scored.sum())
        if SCORED in data:
            scored &= data[SCORED]
            stats = stats._replace(completion_mask=stats.completion_mask & scored[:, None])
        metrics["dgpo/scored_share"] = int(scored.sum()) / num_completions
        check_finite(stats)
        credit = assign_credit(stats, self._settings.rule)
        store(batch, advantages=response_to_nested(credit.token_advantages, data["response_mask"]))
        self._report(credit, metrics)
        if self._hints is not None:
            sums = _sums_of_hints(stats, torch.tensor(is_padding).logical_not())
            metrics.update({name: total / count for name, (total, count) in sums.items() if count})
            if notice := self._hint_monitor.update(*sums["dgpo/hint/auroc"]):
                logger.warning(notice)
        if self._credit_logging is not None:
            self._credit_logging.log(batch, self.global_steps, stats, credit)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Let verl make the updates, of completions with an advantage alone where nothing reads the others."""
        batch.extra_info[SKIP] = not self._readers[0]
        return super()._update_actor(batch, metrics)

    def _report(self, credit: Credit, metrics: dict[str, Any]) -> None:
        """Add `dgpo/*` to verl's metrics, and warn of what makes a run something else than it seems."""
        ours = credit.totals.metrics()
        if credit.totals.has_reference:
            ours["dgpo/kl"] = credit.totals.mean_kl()
        metrics.update(ours)
        distance = ours.get("dgpo/hellinger_sq/max", 0.0)
        if self.global_steps == 1 and distance > _SAME_POLICY:
            logger.warning(
                "The policy differs from its reference before the first update (largest squared Hellinger distance"
                " %.2g; 0 is expected). The reference is actor_rollout_ref.model.path without an adapter: a"
                " lora_adapter_path that is not new, or other dtypes or attention for actor and ref, do this.",
                distance,
            )
        notice = self._inert_monitor.update(credit.totals.stats(), self.global_steps, self.global_steps)
        if notice:
            logger.warning(notice)


class DGPOTrainer(CreditStages, PPOTrainerSync):
    """Samples a rollout, then learns from it."""


class DGPOColocateAsyncTrainer(CreditStages, PPOTrainerColocateAsync):
    """Goes on sampling while it learns; completions that are cut off continue under later weights.

    The credit is that of the policy of the pass of old log-probabilities, whichever policies sampled.
    """


for _mode, _trainer in zip(TRAINER_MODES, (DGPOTrainer, DGPOColocateAsyncTrainer), strict=True):
    register_trainer(_mode)(_trainer)
register_trainer(SEPARATE_ASYNC)(DGPOTrainer)  # whose check refuses it


def _sums_of_hints(stats: TokenStats, rows: Tensor) -> dict[str, tuple[float, float]]:
    """`dgpo/hint/*` of some rows of a batch, (B,) bool: sums and counts."""
    log_ratio, distance = stats.hindsight_log_ratio, stats.hindsight_hellinger_sq
    columns = (log_ratio, distance, stats.completion_mask, stats.rewards, stats.group)
    log_ratio, distance, mask, rewards, group = (column[rows] for column in columns if column is not None)
    compared = hint_pairs(hint_totals(log_ratio, distance, mask), rewards, group)
    sums = hint_metrics(log_ratio, distance, mask, compared)
    return {name: (float(total), float(count)) for name, (total, count) in sums.items()}
