"""`DGPOTrainer`: TRL's `GRPOTrainer` with token advantages.

The way of a token, in the order of the algorithm: `_generate_and_score_completions` (TRL samples, scores the rewards
and computes the group's advantage), `_score` (one pass over the heads of policy and reference), `_assign_credit` (the
rule), and TRL's own loss with one advantage a token. What else TRL must keep for this stands in `compat.py`.

One step costs the policy's forward and backward pass, the reference's backbone forward, and one streamed pass over both
heads: what GRPO with a KL term costs. No logits of either model exist.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from dgpo.checked import all_checked
from dgpo.core import HINDSIGHT_STATS, Credit, TokenStats, assign_credit
from dgpo.engines.trl import checks, heads, hindsight, padding_free
from dgpo.engines.trl.base_weights import keep_base_weights
from dgpo.engines.trl.checkpoint import ExactResume
from dgpo.engines.trl.compat import check_trl_version
from dgpo.engines.trl.config import DGPOConfig, building_reference
from dgpo.engines.trl.credit_logging import CreditLogging
from dgpo.engines.trl.held_out import HeldOutRewards
from dgpo.engines.trl.lengths import SortedByLength, with_padding
from dgpo.engines.trl.live import LiveRows, skips_dead_rows
from dgpo.engines.trl.metrics import CreditMetrics
from dgpo.engines.trl.model_card import ModelCard
from dgpo.engines.trl.overlap import OverlappedReference
from dgpo.engines.trl.reference import undisturbed
from dgpo.engines.trl.rollout import GROUP, REF_LOGPS, REWARD, TOKEN_ADVANTAGES, add_rollout_columns, holds_whole_groups
from dgpo.engines.trl.scores import Scores, is_reference
from dgpo.engines.trl.stop_strings import StopStrings
from dgpo.engines.trl.vllm_cpu import sampling_on_cpu


class DGPOTrainer(
    ExactResume, CreditMetrics, OverlappedReference, HeldOutRewards, SortedByLength, StopStrings, ModelCard, GRPOTrainer
):
    """Train with the credit of a rule: the same arguments as `GRPOTrainer`, with a `DGPOConfig`.

    The reference is what TRL would build for a KL penalty: the checkpoint that the policy came from, the base model
    when a new adapter is trained, or a copy of the adapter when a trained one is passed; `sync_ref_model` moves it. A
    rule that reads nothing of a reference builds none. Logged in addition to TRL's metrics:
    `dgpo/hellinger_sq/{mean,p99,max}`, `dgpo/entropy_gate/mean`, `dgpo/weight/{std,max}`, `dgpo/effective_share`
    (ESS / T, 1 = even) and `kl` (an estimate; no penalty is paid unless `beta` is set).

    Args:
        model: Name or path of a checkpoint, or a model. A model in memory must name its checkpoint.
        reward_funcs: As for `GRPOTrainer`, as are all the others. What they return is checked (`dgpo.checked`).
        args: A `DGPOConfig`.
        train_dataset: Prompts.
        eval_dataset: Held-out prompts.
        processing_class: A tokenizer.
        reward_processing_classes: Tokenizers of reward models.
        callbacks: `TrainerCallback`s. A method `on_rollout_end(args, state, control, logs, seconds, mode, truncated)`
            is called after each rollout with TRL's `_logs`, the seconds spent sampling, `"train"` or `"eval"`, and the
            share of completions that were cut off.
        optimizers: Optimizer and scheduler.
        quantization_config: Of bitsandbytes.
        peft_config: An adapter to train.
        tools: Functions that the model may call.
        rollout_func: A rollout of one's own.
        environment_factory: Environments.

    Raises:
        UnsupportedVersionError: If the installed TRL has not been tested.
        ConfigError: If the configuration, the model or the reference cannot work.

    Example:
        >>> from dgpo import DGPOConfig, DGPOTrainer
        >>> def train(model_path, dataset, reward_fn):
        ...     args = DGPOConfig(output_dir="runs/example", tau=0.5)
        ...     DGPOTrainer(model_path, reward_fn, args, train_dataset=dataset).train()
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: DGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: list[Callable[..., Any]] | None = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
    ) -> None:
        check_trl_version()
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = DGPOConfig(f"{name.rstrip('/').split('/')[-1]}-DGPO")
        checks.check_config(args)
        self._rule = args.resolve_rule()
        self._uses_reference = self._rule.traits.needs_reference or args.beta != 0.0
        # What a hint says of a completion is known once a rollout, without the policy.
        self._compares = bool(set(self._rule.traits.reads) - set(HINDSIGHT_STATS)) or args.beta != 0.0
        checks.check_rule(self._rule, args, train_dataset)
        checks.check_text_only(processing_class)
        if self._uses_reference:
            checks.check_model(model, is_peft=peft_config is not None or hasattr(model, "peft_config"))
            checks.check_adapter(peft_config, has_copy=False)
        self._loss_scores: Scores | None = None  # of the batch whose loss TRL computes
        self._rollout_scores: list[Scores] | None = None  # of the policy that sampled, while TRL makes a rollout
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "optimizers": optimizers}
        processing = {
            "processing_class": processing_class,
            "reward_processing_classes": reward_processing_classes,
            "callbacks": callbacks,
        }
        extensions = {
            "quantization_config": quantization_config,
            "peft_config": peft_config,
            "tools": tools,
            "rollout_func": rollout_func,
            "environment_factory": environment_factory,
        }
        reward_funcs = all_checked(reward_funcs, args.output_dir)
        with building_reference(args, model, self._uses_reference), sampling_on_cpu(args):
            super().__init__(model, reward_funcs, args, **data, **processing, **extensions)
        self.beta = args.beta
        self._skips = skips_dead_rows(self, self._rule.traits)
        self._init_lengths(self._rule.traits)
        self._init_reference_states()
        self._init_metrics(self._rule)
        self._init_stop_strings()
        self._credit_logging = CreditLogging.of(self, self._rule)
        checks.check_trainer(self)
        keep_base_weights(self)

    # ------------------------------------------------------------------------------------------------ rollout

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Let TRL make a rollout; add the group of each completion, and with `credit_policy="old"` its credit.

        TRL leaves the pass of old log-probabilities out where the policy is not updated between sampling and the loss.
        The loss then finds no token advantages and assigns them from its own pass: the policy is still the one that
        sampled.
        """
        self._sampling_seconds = 0.0
        self._reference_states.begin_rollout()
        self._rollout_scores = []
        try:
            outputs: dict[str, Any] = super()._generate_and_score_completions(inputs)
            scores = self._rollout_scores
        finally:
            self._rollout_scores = None
        outputs.pop(REF_LOGPS, None)  # placeholders, see _get_per_token_logps_and_entropies
        add_rollout_columns(self, outputs)
        if self._rule.traits.needs_hint:
            columns, compared = hindsight.hindsight_stats(self, inputs, outputs)
            outputs |= columns
            self._log_hints(outputs, compared)
        if self._credit_logging is not None:
            self._credit_logging.add_columns(inputs, outputs)
        if self.args.credit_policy == "old":
            if not scores and self._rule.traits.whole_groups and not holds_whole_groups(self.args, "micro-batch"):
                with torch.no_grad():  # micro-batches hold parts of groups
                    scores = [self._score(self.model, outputs, self.args.per_device_train_batch_size)]
            if scores:
                credit = self._assign_credit(outputs, scores[0])
                outputs[TOKEN_ADVANTAGES] = credit.token_advantages
                if self.beta != 0.0:
                    outputs[REF_LOGPS] = scores[0].per_token["ref_logps"]
        self._call_rollout_callbacks()
        return outputs

    # ------------------------------------------------------------------------------------- score, assign, loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return TRL's loss with token advantages in place of the completions' ones."""
        live = LiveRows.of(inputs, skip=self._skips and model.training)
        scored = live.select(inputs)
        logging = self._credit_logging  # it holds whole groups: the main process shows it what the loss leaves out
        log_all = bool(TOKEN_ADVANTAGES not in inputs and logging and logging.is_due() and not live.all)
        if self._skips and self.args.credit_log_steps and (log_all := self._on_any_rank(log_all)):
            self._log_all(model, inputs)
        scores = self._score(model, scored, log=not log_all, kept_as=inputs["completion_ids"])
        given = dict(inputs)
        token_advantages = given.pop(TOKEN_ADVANTAGES, None)  # of the rollout, with credit_policy="old"
        if token_advantages is None:
            token_advantages = live.spread(self._assign_credit(scored, scores).token_advantages)
        given["advantages"] = token_advantages
        if self.beta != 0.0:
            given.setdefault(REF_LOGPS, scores.per_token.get("ref_logps"))
        self._loss_scores = live.spread_scores(scores, inputs, self.accelerator.reduce)
        try:
            loss: Tensor = super()._compute_loss(model, given)
        finally:
            self._loss_scores = None
        if self.model.training:
            self._num_losses += 1
            self._refuse_non_finite(loss)
        return loss

    def _log_all(self, model: Any, inputs: dict[str, Any]) -> None:
        """Score all completions for the credit log, in every process, and leave no trace in the training."""
        with torch.no_grad(), undisturbed(None, self.accelerator.device):
            self._assign_credit(inputs, self._score(model, inputs), counted=False)

    def _score(self, model: Any, inputs: dict[str, Any], batch_size: int | None = None, **more: Any) -> Scores:
        """Score the completions of TRL's inputs: policy, and reference where something reads it."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        options = (batch_size, self.aux_loss_enabled, TOKEN_ADVANTAGES not in inputs, inputs)
        return self._score_tokens(model, ids, mask, inputs["completion_ids"].size(1), *options, **more)

    def _score_tokens(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        length: int,
        batch_size: int | None,
        with_aux_loss: bool,
        for_credit: bool,
        inputs: dict[str, Any] | None = None,
        log: bool = True,
        kept_as: Tensor | None = None,
    ) -> Scores:
        """Score the last `length` tokens, `batch_size` rows at a time; first the reference, then both heads at once."""
        score = padding_free.packing(self, super()._get_per_token_logps_and_entropies)
        observe, parts = None, []
        if for_credit and log and self._credit_logging:
            observe = self._credit_logging.observe(mask[:, -length:], inputs)
        for row_ids, row_mask in zip(*(x.split(batch_size or len(x)) for x in (ids, mask)), strict=True):
            row_ids, row_mask, width = self._narrowed(row_ids, row_mask, length)
            call = (score, row_ids, row_mask, width)
            reference = self._reference_of(inputs, kept_as, *call) if for_credit and self._compares else None
            with heads.policy_pass(reference, observe) as stats:
                logps, entropy, aux_loss = score(model, row_ids, row_mask, width, None, True, with_aux_loss)
            per_token = heads.per_completion(stats[0], row_mask[:, -width:].bool()) if for_credit else {}
            parts.append(with_padding(Scores(logps, entropy, aux_loss, per_token), length))
        return Scores.cat(parts)

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
        """Answer TRL: within the loss with what was scored before, in a rollout by our head."""
        if self._loss_scores is not None:
            return self._loss_scores.as_trl_wants()
        if self._rollout_scores is not None and self._uses_reference and is_reference(self, model):
            # TRL asks for the reference's log-probabilities where beta is not 0; _score gives them beside the policy's.
            nothing = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
            return nothing, None, None
        rollout = self._rollout_scores if self.args.credit_policy == "old" else None
        options = (batch_size, compute_aux_loss, rollout is not None)
        scores = self._score_tokens(model, input_ids, attention_mask, logits_to_keep, *options)
        if rollout is not None:
            rollout.append(scores)
        return scores.as_trl_wants()

    def _assign_credit(self, inputs: dict[str, Any], scores: Scores, *, counted: bool = True) -> Credit:
        """Return the credit that the rule gives, and count it; refuse on every rank what one rank refuses."""
        mask = inputs["completion_mask"].bool()
        if "tool_mask" in inputs:
            mask = mask & inputs["tool_mask"].bool()
        old_logps = inputs.get("old_per_token_logps")
        per_token = scores.per_token
        stats = TokenStats(
            completion_mask=mask,
            advantages=inputs["advantages"],
            entropy=per_token["entropy"],
            logps=per_token["logps"],
            old_logps=per_token["logps"] if old_logps is None else old_logps,
            vocab_size=self._vocab_size,
            hellinger_sq=per_token.get("hellinger_sq"),
            ref_logps=per_token.get("ref_logps"),
            rewards=inputs.get(REWARD),
            group=inputs.get(GROUP),
            **{name: inputs.get(key) for name, key in hindsight.FIELDS.items()},
        )
        credit, error = None, None
        try:
            credit = assign_credit(stats, self._rule)
        except Exception as raised:  # whatever a rule raises: the other ranks wait for this one's answer
            error = raised
        if self._on_any_rank(error is not None):
            raise checks.credit_error(error, stats, self.state.global_step + 1, self.args.output_dir)
        assert credit is not None
        if self._credit_logging is not None:
            self._credit_logging.take(inputs, credit, per_token, mask)
        if counted:
            self._count(credit.totals, stats, inputs.get("sampling_per_token_logps"))
        return credit
