"""`DGPOTrainer`: TRL's `GRPOTrainer` with token advantages, through seven narrow hooks (see `compat.py`).

One step costs the policy's forward and backward pass, the reference's backbone forward, and one streamed pass over both
heads: what GRPO with a KL term costs. No logits of either model exist.
"""

import inspect
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from dgpo.core import CreditTotals, entropy_gate, gated_scores, redistribute, redistribution_weights
from dgpo.engines.inert import InertMonitor
from dgpo.engines.trl import checks, heads, state
from dgpo.engines.trl.compat import check_trl_version
from dgpo.engines.trl.config import DGPOConfig
from dgpo.engines.trl.credit_logging import CreditLogging
from dgpo.errors import TrainingError

logger = logging.getLogger(__name__)

_WEIGHTS, _REF_LOGPS = "dgpo_weights", "ref_per_token_logps"
_SAME_POLICY = 1e-6  # a distance that a reference with the policy's own weights cannot reach


class DGPOTrainer(GRPOTrainer):
    """Train with DGPO: the same arguments as `GRPOTrainer`, with a `DGPOConfig`.

    The reference is what TRL would build for a KL penalty: the checkpoint that the policy came from, the base model
    when a new adapter is trained, or a copy of the adapter when a trained one is passed; `sync_ref_model` moves it.
    Logged in addition to TRL's metrics: `dgpo/hellinger_sq/{mean,p99,max}`, `dgpo/entropy_gate/mean`,
    `dgpo/weight/{std,max}`, `dgpo/effective_share` (ESS / T, 1 = even) and `kl` (an estimate; no penalty is paid unless
    `beta` is set).

    Args:
        model: Name or path of a checkpoint, or a model. A model in memory must name its checkpoint.
        reward_funcs: As for `GRPOTrainer`.
        args: A `DGPOConfig`.
        *others: Further arguments of `GRPOTrainer`, in its order.
        **options: The same by name.

    Raises:
        UnsupportedVersionError: If the installed TRL has not been checked.
        RecipeError: If the configuration, the model or the reference cannot work.

    Example:
        >>> from dgpo import DGPOConfig, DGPOTrainer
        >>> def train(model_path, dataset, reward_fn):
        ...     args = DGPOConfig(output_dir="runs/example", tau=0.5)
        ...     DGPOTrainer(model_path, reward_fn, args, train_dataset=dataset).train()
    """

    _tag_names = ["trl", "dgpo"]  # noqa: RUF012  TRL's own attribute
    _name = "DGPO"
    _paper = {  # noqa: RUF012
        "title": "DGPO: Distribution-Guided Policy Optimization for Fine-Grained Credit Assignment",
        "id": "2605.03327",
    }

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, *others: Any, **options: Any) -> None:
        check_trl_version()
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = DGPOConfig(f"{name.rstrip('/').split('/')[-1]}-DGPO")
        checks.check_config(args)
        given = inspect.signature(GRPOTrainer.__init__).bind_partial(
            self, model, reward_funcs, args, *others, **options
        )
        new_adapter = given.arguments.get("peft_config")
        checks.check_text_only(given.arguments.get("processing_class"))
        checks.check_model(model, is_peft=new_adapter is not None or hasattr(model, "peft_config"))
        checks.check_adapter(new_adapter, has_copy=False)

        self._kl_beta: float = args.beta
        self._held_inputs: dict[str, Any] | None = None  # inputs of the loss being computed, without advantages
        self._advantages = torch.empty(0)  # and those advantages
        self._sampled: dict[str, Tensor] | None = None  # statistics of the policy that sampled, credit_policy="old"
        self._totals: dict[str, CreditTotals] = {}
        self._first_counted_step = 1  # of the training totals
        self._train_sampler: Any = None
        self._generation_seconds = 0.0  # of the last rollout
        self._inert_monitor = InertMonitor(args.inert_warning_steps, args.tau, args.kappa)
        with _reference_wanted(args):
            super().__init__(model, reward_funcs, args, *others, **options)
        # Where beta != 0, TRL also scores the reference while generating. Here that happens within the loss alone.
        self.beta = 0.0
        self._credit_logging = CreditLogging.of(self)

        checks.check_text_only(self.processing_class)
        if self.ref_model is not None:
            checks.check_same_vocabulary(self.model, self.accelerator.unwrap_model(self.ref_model))
            checks.check_same_tokenizer(self._tokenizer, self.model.config._name_or_path)
        for name, adapter in getattr(self.accelerator.unwrap_model(self.model), "peft_config", {}).items():
            checks.check_adapter(adapter, has_copy=name == "ref" or "ref" in self.model.peft_config)

    @contextmanager
    def _reference_policy(self) -> Iterator[Any]:
        """Yield the model to call for the reference, as TRL does for its KL term."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                yield self.ref_model
                return
            policy = self.accelerator.unwrap_model(self.model)
            with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
                yield self.model

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Score with our head; where the credit is taken from this pass, score the reference and then both heads."""
        score = super()._get_per_token_logps_and_entropies
        held = self._held_inputs
        takes_credit = self.args.credit_policy == "old" if held is None else _WEIGHTS not in held
        if not takes_credit:
            with heads.policy_pass():
                options = (batch_size, compute_entropy, compute_aux_loss)
                return score(model, input_ids, attention_mask, logits_to_keep, *options, **images)

        observe = self._credit_logging and self._credit_logging.observe(attention_mask[:, -logits_to_keep:])
        results, statistics = [], []
        for ids, mask in zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True):
            with self._reference_policy() as ref_model, heads.reference_pass(copy_head=self.is_fsdp_enabled) as ref:
                score(ref_model, ids, mask, logits_to_keep, **images)
            with heads.pair_pass(ref[0], observe) as pair:
                results.append(score(model, ids, mask, logits_to_keep, None, True, compute_aux_loss, **images))
            statistics.append(heads.per_completion(pair[0], mask[:, -logits_to_keep:].bool()))
        logps, entropies, aux_losses = zip(*results, strict=True)
        per_token = {name: torch.cat([part[name] for part in statistics]) for name in statistics[0]}
        gate = {"vocab_size": len(ref[0].weight), "kappa": self.args.kappa}
        per_token["gate"] = entropy_gate(per_token["entropy"], **gate)
        per_token["scores"] = gated_scores(per_token["hellinger_sq"], per_token["entropy"], **gate)
        if held is None:
            self._sampled = per_token
        else:
            self._give_credit(held, per_token)
            held["advantages"] = redistribute(self._advantages, held.pop(_WEIGHTS))
        aux_loss = torch.stack(aux_losses).mean() if compute_aux_loss else None
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, aux_loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """With `credit_policy="old"`, fix the weights where TRL scores the policy that sampled.

        TRL leaves that pass out where the policy is not updated between sampling and the loss. The loss then finds no
        weights and computes them from its own pass: the policy is still the one that sampled.
        """
        self._sampled = None
        outputs = super()._generate_and_score_completions(inputs)
        if self._credit_logging is not None:
            self._credit_logging.keep_rewards(outputs)
        if self._sampled is not None:
            self._give_credit(outputs, self._sampled)
            self._sampled = None
        self._call_rollout_hooks()
        return outputs

    def _generate(self, *prompts: Any, **options: Any) -> Any:
        """Generate as TRL does, and note how long it takes."""
        started = time.monotonic()
        try:
            return super()._generate(*prompts, **options)
        finally:
            self._generation_seconds = time.monotonic() - started

    def _call_rollout_hooks(self) -> None:
        """Call `on_rollout_end` of each callback that has it, with TRL's `_logs` of the rollout."""
        mode = "train" if self.model.training else "eval"
        for callback in self.callback_handler.callbacks:
            if hook := getattr(callback, "on_rollout_end", None):
                rollout = {"logs": self._logs, "seconds": self._generation_seconds, "mode": mode}
                hook(self.args, self.state, self.control, **rollout)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Let TRL compute its loss with token advantages in place of the completions' ones."""
        # Held back until the weights exist: should TRL come to read them earlier, that is a KeyError, not silence.
        held = {name: value for name, value in inputs.items() if name != "advantages"}
        if _WEIGHTS in held:
            held["advantages"] = redistribute(inputs["advantages"], held[_WEIGHTS])
        self._held_inputs, self._advantages, self.beta = held, inputs["advantages"], self._kl_beta
        try:
            loss = super()._compute_loss(model, held)
        finally:
            self._held_inputs, self.beta = None, 0.0
        if self.model.training:
            self._refuse_non_finite(loss)
        return loss

    def _give_credit(self, inputs: dict[str, Any], per_token: dict[str, Tensor]) -> None:
        """Put the weights into `inputs`, with the reference's log-probabilities where a KL penalty wants them."""
        mask = inputs["completion_mask"].bool()
        if "tool_mask" in inputs:
            mask = mask & inputs["tool_mask"].bool()
        inputs[_WEIGHTS] = redistribution_weights(per_token["scores"], mask, tau=self.args.tau)
        if self._credit_logging is not None:
            self._credit_logging.take(inputs, inputs[_WEIGHTS], per_token, mask)
        if self._kl_beta != 0.0:
            inputs[_REF_LOGPS] = per_token["ref_logps"]
        log_ratio = per_token["ref_logps"] - per_token["logps"]
        totals = CreditTotals.of(
            inputs[_WEIGHTS],
            per_token["scores"],
            mask,
            hellinger_sq=per_token["hellinger_sq"],
            entropy_gate=per_token["gate"],
            kl=log_ratio.exp() - log_ratio - 1,
        )
        self._count(totals)

    # ------------------------------------------------------------------------------------------------ metrics

    def _count(self, totals: CreditTotals) -> None:
        """Add one batch, of all ranks, to the totals of the logging window."""
        totals = totals.reduced(
            lambda sums: self.accelerator.reduce(sums, reduction="sum"),
            lambda maxima: self.accelerator.gather(maxima[None]).amax(0),
        )
        mode = "train" if self.model.training else "eval"
        if mode == "train" and self._step == 0 and self.state.global_step == 0:
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
        if self.ref_model is None:
            cause = "The reference is the model with the adapter switched off; an adapter that is not new"
        else:
            path = self.model.config._name_or_path
            cause = f"The reference is loaded from config._name_or_path={path!r}; a policy changed in memory"
        logger.warning(
            "The policy differs from its reference before the first update (largest squared Hellinger distance %.2g;"
            " 0 is expected). %s or dropout (disable_dropout=True switches it off) does this.",
            distance,
            cause,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics and the credit of all tokens since the last call."""
        mode = "train" if self.model.training else "eval"
        totals = self._totals.pop(mode, None)
        if totals is not None and totals.stats().num_tokens:
            metrics = totals.metrics()
            if self._kl_beta == 0.0:  # TRL logs it where a penalty is paid
                metrics["kl"] = totals.mean_kl()
            for name, value in metrics.items():
                self._metrics[mode][name].append(value)
            if mode == "train":
                steps = (self._first_counted_step, self.state.global_step)
                notice = self._inert_monitor.update(totals.stats(), *steps)
                if notice and self.accelerator.is_main_process:
                    logger.warning(notice)
        super().log(logs, start_time)

    # -------------------------------------------------------------------------------- stopping and resuming

    def _on_any_rank(self, condition: bool | Tensor) -> bool:
        """Whether a condition holds on some rank: what stops one must stop all, or the others wait forever."""
        flag = torch.as_tensor(condition, device=self.accelerator.device).float()
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _refuse_non_finite(self, loss: Tensor) -> None:
        if self._on_any_rank(~torch.isfinite(loss.detach())):
            raise checks.non_finite_error("The loss", self.state.global_step + 1, self.args.output_dir)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Keep hold of TRL's sampler, whose order of prompts a resumed run has to continue."""
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _layout(self) -> dict[str, int]:
        """What must not change between a checkpoint and the run that continues it."""
        names = ("steps_per_generation", "num_iterations", "per_device_train_batch_size", "gradient_accumulation_steps")
        return {"num_processes": self.accelerator.num_processes, **{name: getattr(self.args, name) for name in names}}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save what TRL leaves out, and that first: `trainer_state.json`, written last, marks a complete checkpoint."""
        finite = all(bool(torch.isfinite(p.detach()).all()) for p in self.model.parameters() if p.requires_grad)
        if self._on_any_rank(not finite):
            raise checks.non_finite_error("A parameter", self.state.global_step, self.args.output_dir)
        if not self.args.save_only_model:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            failure = self._try_to_save_state(Path(self._get_output_dir(trial=trial)) / folder)
            if self._on_any_rank(failure is not None):
                raise failure or TrainingError("Another process could not write its part of the checkpoint.")
        super()._save_checkpoint(model, trial)

    def _try_to_save_state(self, checkpoint: Path) -> Exception | None:
        rank = self.accelerator.process_index
        try:
            state.save_rollout_state(checkpoint, rank, self._step, self._buffered_inputs, self._layout())
            if self.args.sync_ref_model:
                reference = self.accelerator.unwrap_model(self.ref_model)
                state.save_reference(checkpoint, rank, reference, sharded=self.is_fsdp_enabled)
        except (OSError, SafetensorError, TrainingError) as error:
            return error
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore what `_save_checkpoint` saved, where TRL restores its own."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder, rank = Path(checkpoint), self.accelerator.process_index
        if self.args.sync_ref_model:
            reference = self.accelerator.unwrap_model(self.ref_model)
            state.load_reference(folder, rank, reference, sharded=self.is_fsdp_enabled)
        saved = state.load_rollout_state(folder, rank, self.accelerator.device)
        is_missing = self._on_any_rank(saved is None)
        if is_missing and not self._on_any_rank(saved is not None):
            logger.warning("%s holds no state of DGPOTrainer (save_only_model?): resuming is not exact.", checkpoint)
            return
        if is_missing or saved is None or self._on_any_rank(saved[2] != self._layout()):
            before = saved[2] if saved is not None else "another number of processes"
            raise TrainingError(
                f"{checkpoint} was saved with {before}, and this run has {self._layout()}: its rollouts do not fit."
                " Resume with the same, or start a new run from its weights."
            )
        self._step, self._buffered_inputs, _ = saved
        self._skip_past_epochs(folder)

    def _skip_past_epochs(self, checkpoint: Path) -> None:
        """Bring the sampler's generator to where it was: it draws one order of the prompts an epoch."""
        epoch = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).epoch or 0.0
        for _ in range(int(epoch + 1e-6) if self._train_sampler is not None else 0):
            next(iter(self._train_sampler), None)


@contextmanager
def _reference_wanted(args: DGPOConfig) -> Iterator[None]:
    """Give TRL's constructor a non-zero `beta`: everything that builds and prepares a reference hangs on it."""
    beta = args.beta
    args.beta = beta or 1.0
    try:
        yield
    finally:
        args.beta = beta
