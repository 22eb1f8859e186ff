"""The metrics of the credit: totals over micro-batches and ranks, logged beside TRL's own, and what is said of them."""

import logging
import time
from typing import Any

import torch
from torch import Tensor

from dgpo.core import CreditTotals, TokenStats
from dgpo.core.hindsight import HintPairs, hint_metrics
from dgpo.engines.hint_monitor import HintMonitor
from dgpo.engines.inert import InertMonitor
from dgpo.engines.trl import checks
from dgpo.engines.trl.hindsight import COLUMNS
from dgpo.engines.trl.rollout import trained_mask
from dgpo.engines.trl.sampler import SamplerMonitor
from dgpo.errors import TrainingError
from dgpo.rules import CreditRule

logger = logging.getLogger("dgpo.engines.trl.trainer")

_SAME_POLICY = 1e-6  # a distance that a reference with the policy's own weights cannot reach


class CreditMetrics:
    """Mixin of `DGPOTrainer`."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    beta: float
    model: Any
    ref_model: Any
    state: Any
    callback_handler: Any
    control: Any
    _logs: Any
    _metrics: Any
    _step: int
    _sampling_seconds = 0.0  # of the newest rollout

    def _init_metrics(self, rule: CreditRule) -> None:
        self._totals: dict[str, CreditTotals] = {}
        self._first_counted_step = 1  # of the training totals
        self._num_losses = 0  # since the last line of the training log
        self._vocab_size = int(self.model.config.get_text_config().vocab_size)
        self._inert_monitor = InertMonitor.of(rule, self.args.inert_warning_steps)
        self._sampler_monitor = SamplerMonitor.of(self.args)
        self._hint_monitor = HintMonitor(self.args.hint)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.monotonic()
        try:
            return super()._generate(prompts)
        finally:
            self._sampling_seconds += time.monotonic() - started

    def _call_rollout_callbacks(self) -> None:
        """Tell every callback that has `on_rollout_end` what was sampled."""
        given = {"logs": self._logs, "seconds": self._sampling_seconds, "mode": self._mode}
        cut_off = self._metrics[self._mode].get("completions/clipped_ratio")
        given["truncated"] = cut_off[-1] if cut_off else None
        for callback in self.callback_handler.callbacks:
            on_rollout_end = getattr(callback, "on_rollout_end", None)
            if on_rollout_end is not None:
                on_rollout_end(self.args, self.state, self.control, **given)

    def _count(self, totals: CreditTotals, stats: TokenStats, sampled_logps: Tensor | None) -> None:
        """Add one batch, of all ranks, to the totals of the logging window."""
        totals = totals.reduced(
            lambda sums: self.accelerator.reduce(sums, reduction="sum"),
            lambda maxima: self.accelerator.gather(maxima[None]).amax(0),
        )
        mode = self._mode
        if mode == "train" and self._sampler_monitor:
            self._sampler_monitor.add(sampled_logps, stats.old_logps, stats.ref_logps, stats.completion_mask)
        if mode == "train" and self._step == 0 and self.state.global_step == 0 and totals.has_reference:
            self._warn_of_another_reference(totals)
        if mode in self._totals:
            totals = self._totals[mode] + totals
        elif mode == "train":
            self._first_counted_step = self.state.global_step + 1
        self._totals[mode] = totals

    def _warn_of_another_reference(self, totals: CreditTotals) -> None:
        distance = totals.metrics()["dgpo/hellinger_sq/max"]
        if distance <= _SAME_POLICY or not self.accelerator.is_main_process:
            return
        logger.warning(
            "The policy differs from its reference before the first update (largest squared Hellinger distance %.2g;"
            " 0 is expected): %s.",
            distance,
            self._cause_of_another_reference(),
        )

    def _cause_of_another_reference(self) -> str:
        """What can make policy and reference differ here: dropout, a trained adapter, or a changed model."""
        policy = self.accelerator.unwrap_model(self.model)
        dropped = [m.p for m in policy.modules() if isinstance(m, torch.nn.Dropout) and m.training and m.p > 0]
        if dropped:
            return (
                f"dropout is on (p = {max(dropped):g}) and changes the policy by chance; disable_dropout=True, or"
                " lora_dropout=0 for an adapter's, switches it off"
            )
        if self.ref_model is None:
            return (
                "the adapter is not new, and the reference is the model without it. To compare with the adapter as it"
                " was passed, load it with PeftModel.from_pretrained(model, folder, is_trainable=True) and leave"
                " peft_config out"
            )
        path = self.model.config._name_or_path
        return f"the reference is loaded from config._name_or_path={path!r}, and the policy was changed in memory"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics and the credit of all tokens since the last call."""
        mode = self._mode
        if mode == "train" and "loss" in logs:
            if not self._num_losses:
                raise TrainingError(
                    "A training step was made and no credit was assigned: something computes the loss without"
                    " DGPOTrainer._compute_loss, so that this run is not DGPO. Look for a package or a subclass that"
                    " replaces compute_loss or training_step."
                )
            self._num_losses = 0
        totals = self._totals.pop(mode, None)
        if totals is not None and totals.stats().num_tokens:
            metrics = totals.metrics()
            if self.beta == 0.0 and totals.has_reference:  # TRL logs it where a penalty is paid
                metrics["kl"] = totals.mean_kl()
            for name, value in metrics.items():
                self._metrics[mode][name].append(value)
            if mode == "train":
                steps = (self._first_counted_step, self.state.global_step)
                notices = [self._inert_monitor.update(totals.stats(), *steps)]
                if self._sampler_monitor:
                    notices.append(self._sampler_monitor.notice(self._sum_over_ranks))
                for notice in notices:
                    if notice and self.accelerator.is_main_process:
                        logger.warning(notice)
        super().log(logs, start_time)

    def _log_hints(self, outputs: dict[str, Tensor], compared: HintPairs) -> None:
        """Log what the hints of a rollout said, means over all ranks, and warn where that is nothing."""
        log_ratio, distance = (outputs[COLUMNS[name]] for name in ("hindsight_log_ratio", "hindsight_hellinger_sq"))
        sums = hint_metrics(log_ratio, distance, trained_mask(outputs), compared)
        for name, value in sums.items():
            total, count = self._sum_over_ranks(value).tolist()
            if count:
                self._metrics[self._mode][name].append(total / count)
            if name == "dgpo/hint/auroc" and self._mode == "train":
                notice = self._hint_monitor.update(total, count)
                if notice and self.accelerator.is_main_process:
                    logger.warning(notice)

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")
        return total

    def _on_any_rank(self, condition: bool | Tensor) -> bool:
        """Whether a condition holds on some rank: what stops one must stop all, or the others wait forever."""
        flag = torch.as_tensor(condition, device=self.accelerator.device).float()
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _refuse_non_finite(self, loss: Tensor) -> None:
        if self._on_any_rank(~torch.isfinite(loss.detach())):
            raise checks.non_finite_error("The loss", self.state.global_step + 1, self.args.output_dir)
