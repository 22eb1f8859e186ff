"""What `DGPOTrainer` refuses before compute is spent, and what it says about a reference that is not the policy."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer

from dgpo.core import TokenStats
from dgpo.engines.trl.config import DGPOConfig
from dgpo.engines.trl.padding_free import check_padding_free
from dgpo.engines.trl.rollout import holds_whole_groups
from dgpo.engines.trl.settings import check_hint_data
from dgpo.errors import ConfigError, DgpoError, TrainingError
from dgpo.names import did_you_mean
from dgpo.rules import CreditRule

logger = logging.getLogger(__name__)

_INIT = re.compile(r"init_(\w+_)?weights")


def check_config(args: Any) -> None:
    """Refuse arguments that are not a `DGPOConfig`, and DeepSpeed ZeRO-3."""
    if not isinstance(args, DGPOConfig):
        kind = "a GRPOConfig" if isinstance(args, GRPOConfig) else f"of type {type(args).__name__}"
        raise ConfigError(f"args is {kind}; DGPOTrainer needs a DGPOConfig. Replace GRPOConfig by dgpo.DGPOConfig.")
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        raise ConfigError(
            "DeepSpeed ZeRO-3 keeps the LM head in pieces that DGPO's backward pass over two heads would have to gather"
            " again; that is not built yet. Use ZeRO-2 or FSDP."
        )


def check_rule(rule: CreditRule, args: DGPOConfig, dataset: Any) -> None:
    """Refuse a rule that reads what neither TRL's pass nor the data set gives, or that would see parts of groups."""
    check_hint_data(args, getattr(dataset, "column_names", None))
    if "kl" in rule.traits.reads:
        raise ConfigError(
            f"The credit rule {rule.name} reads kl, the divergence over the whole vocabulary; TRL's pass over the heads"
            " computes hellinger_sq and ref_logps. Use one of these, ref_logps - logps for an estimate of KL, say."
        )
    if not rule.traits.whole_groups:
        return
    if not holds_whole_groups(args, "rollout"):
        raise ConfigError(
            f"The credit rule {rule.name} compares all completions of a prompt, and a process samples"
            f" {args.per_device_train_batch_size * args.steps_per_generation} at once, which are not whole groups of"
            f" {args.num_generations}. Make per_device_train_batch_size * steps_per_generation a multiple of"
            " num_generations."
        )
    if args.credit_policy == "current" and not holds_whole_groups(args, "micro-batch"):
        raise ConfigError(
            f"The credit rule {rule.name} compares all completions of a prompt, and with credit_policy='current' it"
            " would see the parts of them that a micro-batch holds"
            f" (steps_per_generation={args.steps_per_generation}; TRL shuffles a rollout before it cuts it). Use"
            " credit_policy='old', which assigns the credit of a whole rollout, or steps_per_generation=1."
        )


def credit_error(error: Exception | None, stats: TokenStats, step: int, output_dir: str | None) -> DgpoError:
    """Return the error of a step whose credit could not be assigned.

    Args:
        error: What this rank's rule raised; None where another rank's did.
        stats: What the rule was given.
        step: The step, counted from 1.
        output_dir: Of the run.

    Returns:
        The error; that of nan or infinite statistics where these are the cause.
    """
    per_token = (stats.logps, stats.entropy, stats.hellinger_sq, stats.ref_logps)
    given = [values[stats.completion_mask] for values in per_token if values is not None]
    if not all(bool(torch.isfinite(values).all()) for values in given):
        return non_finite_error("The loss", step, output_dir)
    reason = "the credit rule of another process failed; its own message says why" if error is None else str(error)
    failure = TrainingError(
        f"The credit of step {step} could not be assigned: {reason} {last_checkpoint_note(output_dir)}"
    )
    failure.__cause__ = error
    return failure


def check_model(model: Any, *, is_peft: bool) -> None:
    """Refuse a model in memory that names no checkpoint, and an adapter that TRL cannot copy as the reference."""
    adapters = getattr(model, "peft_config", {})
    if adapters and "default" not in adapters:
        raise ConfigError(
            f"The model's adapters are named {', '.join(adapters)}; TRL trains and copies the one named 'default'. Load"
            " it with PeftModel.from_pretrained(model, folder, is_trainable=True), which names it so."
        )
    if isinstance(model, str) or is_peft:
        return
    if not getattr(model.config, "_name_or_path", ""):
        raise ConfigError(
            "The model was built in memory and names no checkpoint (config._name_or_path is empty), so its frozen"
            " reference cannot be loaded. Save it with model.save_pretrained(folder) and pass the folder."
        )


def check_text_only(processing_class: Any) -> None:
    """Refuse multimodal processors."""
    if isinstance(processing_class, ProcessorMixin):
        raise ConfigError(
            f"{type(processing_class).__name__} is multimodal; DGPO has been checked with text models only. Pass a"
            " tokenizer as processing_class to train on text."
        )


def check_same_vocabulary(model: PreTrainedModel, ref_model: PreTrainedModel) -> None:
    """Refuse a reference whose head runs over another vocabulary."""
    # Not the heads themselves: outside of a forward pass a wrapper may hold them in pieces.
    sizes = [m.config.get_text_config().vocab_size for m in (model, ref_model)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"Vocabulary sizes differ: policy {sizes[0]}, reference {sizes[1]}; the Hellinger distance compares"
            " distributions over one vocabulary. The reference is loaded from the policy's config._name_or_path: after"
            " resizing the embeddings, save the model and train from the saved folder."
        )


def check_same_tokenizer(tokenizer: PreTrainedTokenizerBase, reference_path: str) -> None:
    """Refuse a reference whose own tokenizer gives a token another id; tokens added for the policy are fine."""
    try:
        reference = AutoTokenizer.from_pretrained(reference_path, trust_remote_code=False)
    except Exception:  # a checkpoint without a tokenizer has nothing to compare
        return
    ours = tokenizer.get_vocab()
    for token, index in reference.get_vocab().items():
        if ours.get(token) != index:
            raise ConfigError(
                f"The reference {reference_path} has another tokenizer: its token {token!r} has id {index}, the"
                f" policy's tokenizer gives it {ours.get(token)}. The same ids must mean the same tokens; train from a"
                " checkpoint whose tokenizer is the one passed as processing_class."
            )


def check_adapter(config: Any, *, has_copy: bool) -> None:
    """Refuse adapters whose switching off does not give the initial policy back.

    Args:
        config: A `PeftConfig`, or `None`.
        has_copy: Whether a frozen copy of the adapter is the reference, and not the model without it.
    """
    bias = getattr(config, "bias", "none")
    if bias != "none":
        raise ConfigError(
            f"The adapter trains biases of the model itself (bias={bias!r}); they stay changed when the adapter is"
            " switched off, so that the reference would follow the policy unseen. Use bias='none'."
        )
    if has_copy or config is None:
        return
    remedy = "wrap the model with get_peft_model yourself and pass it: its adapter is then copied as the reference."
    if getattr(config, "is_prompt_learning", False):
        raise ConfigError(
            f"{type(config).__name__} puts new prompt vectors in front of every prompt, so that the policy is another"
            f" one than the model without the adapter, which would be the reference. Use LoRA; or {remedy}"
        )
    for name, init in vars(config).items():
        if _INIT.fullmatch(name) and init not in (True, None, "gaussian", "eva"):
            raise ConfigError(
                f"{name}={init!r} starts from another policy than the model without the adapter, which would be the"
                f" reference. Use {name}=True; or {remedy}"
            )


def check_trainer(trainer: Any) -> None:
    """Refuse a reference, or an adapter without which the model would be one, that does not fit the policy."""
    check_text_only(trainer.processing_class)
    check_padding_free(trainer)
    if trainer.ref_model is not None:
        check_same_vocabulary(trainer.model, trainer.accelerator.unwrap_model(trainer.ref_model))
        check_same_tokenizer(trainer._tokenizer, trainer.model.config._name_or_path)
    adapters = getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {})
    for name, adapter in adapters.items() if trainer._uses_reference else ():
        check_adapter(adapter, has_copy=name == "ref" or "ref" in adapters)


def last_checkpoint_note(output_dir: str | None) -> str:
    """Return a sentence that says where the last complete checkpoint is, for messages of runs that had to stop."""
    complete = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json") if output_dir else ()
    steps = {int(path.parent.name.rpartition("-")[2]): path.parent for path in complete}
    return f"The last checkpoint is kept: {steps[max(steps)]}." if steps else "No checkpoint had been saved."


def non_finite_error(what: str, step: int, output_dir: str | None) -> DgpoError:
    """Return the error of a run whose loss or parameters are nan or infinite."""
    return TrainingError(
        f"{what} at step {step} is not finite (nan or inf); nothing after it could be trusted, so the run stops."
        f" {last_checkpoint_note(output_dir)} Usual causes: a learning rate that is too high, fp16 overflow (use bf16),"
        " or a model whose weights were nan from the start."
    )


def check_watched(trainer: Any, rule: CreditRule, every: int, completions: int, answer: str | None) -> None:
    """Refuse what `dgpo.watch` cannot log, and say what it can log parts of only."""
    if not isinstance(trainer, GRPOTrainer):
        raise ConfigError(
            f"dgpo.watch looks at the rollouts and the loss of TRL's GRPOTrainer; {type(trainer).__name__} is none."
        )
    if hasattr(trainer, "_credit_logging"):
        raise ConfigError(
            f"{type(trainer).__name__} writes a credit log of its own, with the credit that it trains with. Set"
            f" credit_log_steps={every} in DGPOConfig."
        )
    if any(callback.__class__.__name__ == "Watch" for callback in trainer.callback_handler.callbacks):
        raise ConfigError("This trainer is watched already; call dgpo.watch once.")
    for name, value in (("every", every), ("completions", completions)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")
    columns = getattr(trainer.train_dataset, "column_names", None)
    if answer is not None and columns and answer not in columns and answer.split(".")[0] not in columns:
        raise ConfigError(
            f"The data set has no column {answer!r}.{did_you_mean(answer, columns)} It has {', '.join(columns)}."
        )
    args, size = trainer.args, trainer.num_generations
    rows = args.per_device_train_batch_size * args.steps_per_generation
    is_whole = args.world_size == 1 or rows % size == 0
    has_parts = not is_whole or completions < size or args.steps_per_generation > args.gradient_accumulation_steps
    if rule.traits.whole_groups and has_parts:
        raise ConfigError(
            f"The credit rule {rule.name} compares all completions of a prompt, and the log would hold parts of them."
            f" Give completions at least num_generations ({size}); a process must sample whole groups, and a step must"
            " use whole rollouts (steps_per_generation at most gradient_accumulation_steps)."
        )
    if not is_whole and trainer.accelerator.is_main_process:
        logger.warning(
            "A process samples %d completions, which are not whole groups of %d: the log holds the main process's part"
            " of a group.",
            rows,
            size,
        )


def check_watched_rule(rule: CreditRule, *, has_reference: bool) -> None:
    """Refuse a rule that reads statistics of a reference where there is none, and KL, which no pass gives."""
    if "kl" in rule.traits.reads:
        raise ConfigError(f"The credit rule {rule.name} reads kl, which the pass over the heads does not give.")
    if rule.traits.needs_reference and not has_reference:
        raise ConfigError(
            f"The credit rule {rule.name} reads {', '.join(rule.traits.reads)}, and there is no reference. Name a"
            " checkpoint: dgpo.watch(trainer, reference=PATH). What is there by itself is TRL's reference (beta above"
            " 0), or the model without its adapter (PEFT)."
        )
