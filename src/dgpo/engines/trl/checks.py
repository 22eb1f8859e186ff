"""What `DGPOTrainer` refuses before compute is spent, and what it says about a reference that is not the policy."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig

from dgpo.engines.trl.config import DGPOConfig
from dgpo.errors import DgpoError, RecipeError, TrainingError


def check_config(args: Any) -> None:
    """Refuse arguments that are not a `DGPOConfig`, and DeepSpeed ZeRO-3."""
    if not isinstance(args, DGPOConfig):
        kind = "a GRPOConfig" if isinstance(args, GRPOConfig) else f"of type {type(args).__name__}"
        raise RecipeError(f"args is {kind}; DGPOTrainer needs a DGPOConfig. Replace GRPOConfig by dgpo.DGPOConfig.")
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        raise RecipeError(
            "DeepSpeed ZeRO-3 keeps the LM head in pieces that DGPO's backward pass over two heads would have to gather"
            " again; that is not built yet. Use ZeRO-2 or FSDP."
        )


def check_model(model: Any, *, is_peft: bool) -> None:
    """Refuse a model in memory that names no checkpoint, since the reference is loaded from there."""
    if isinstance(model, str) or is_peft:
        return
    if not getattr(model.config, "_name_or_path", ""):
        raise RecipeError(
            "The model was built in memory and names no checkpoint (config._name_or_path is empty), so its frozen"
            " reference cannot be loaded. Save it with model.save_pretrained(folder) and pass the folder."
        )


def check_text_only(processing_class: Any) -> None:
    """Refuse multimodal processors."""
    if isinstance(processing_class, ProcessorMixin):
        raise RecipeError(
            f"{type(processing_class).__name__} is multimodal; DGPO has been checked with text models only. Pass a"
            " tokenizer as processing_class to train on text."
        )


def check_same_vocabulary(model: PreTrainedModel, ref_model: PreTrainedModel) -> None:
    """Refuse a reference whose head runs over another vocabulary."""
    # Not the heads themselves: outside of a forward pass a wrapper may hold them in pieces.
    sizes = [m.config.get_text_config().vocab_size for m in (model, ref_model)]
    if sizes[0] != sizes[1]:
        raise RecipeError(
            f"The policy's head has {sizes[0]} words and the reference's {sizes[1]}; the Hellinger distance compares"
            " distributions over the same words. The reference is loaded from the policy's config._name_or_path: after"
            " resizing the embeddings, save the model and train from the saved folder."
        )


def check_same_tokenizer(tokenizer: PreTrainedTokenizerBase, reference_path: str) -> None:
    """Refuse a reference whose own tokenizer gives some word another id; words added for the policy are fine."""
    try:
        reference = AutoTokenizer.from_pretrained(reference_path, trust_remote_code=False)
    except Exception:  # a checkpoint without a tokenizer has nothing to compare
        return
    ours = tokenizer.get_vocab()
    for word, index in reference.get_vocab().items():
        if ours.get(word) != index:
            raise RecipeError(
                f"The reference {reference_path} has another tokenizer: its word {word!r} has id {index}, the policy's"
                f" tokenizer gives it {ours.get(word)}. The same ids must mean the same words; train from a checkpoint"
                " whose tokenizer is the one passed as processing_class."
            )


def check_adapter(config: Any, *, has_copy: bool) -> None:
    """Refuse adapters whose switching off does not give the initial policy back.

    Args:
        config: A `PeftConfig`, or `None`.
        has_copy: Whether a frozen copy of the adapter is the reference, and not the model without it.
    """
    bias = getattr(config, "bias", "none")
    if bias != "none":
        raise RecipeError(
            f"The adapter trains biases of the model itself (bias={bias!r}); they stay changed when the adapter is"
            " switched off, so that the reference would follow the policy unseen. Use bias='none'."
        )
    init = getattr(config, "init_lora_weights", True)
    if not has_copy and init not in (True, "gaussian", "eva"):
        raise RecipeError(
            f"init_lora_weights={init!r} starts from another policy than the model without the adapter, which would be"
            " the reference. Use True or 'gaussian'; or wrap the model with get_peft_model yourself and pass it: its"
            " adapter is then copied as the reference."
        )


def last_checkpoint_note(output_dir: str | None) -> str:
    """Return a sentence that says where the last complete checkpoint is, for messages of runs that had to stop."""
    complete = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json") if output_dir else ()
    steps = {int(path.parent.name.rpartition("-")[2]): path.parent for path in complete}
    return f"The last checkpoint is kept: {steps[max(steps)]}." if steps else "No checkpoint had been saved."


def non_finite_error(what: str, step: int, output_dir: str | None) -> DgpoError:
    """Return the error of a run whose numbers are no numbers any more."""
    return TrainingError(
        f"{what} at step {step} is not finite (nan or inf); nothing after it could be trusted, so the run stops."
        f" {last_checkpoint_note(output_dir)} Usual causes: a learning rate that is too high, fp16 overflow (use bf16),"
        " or a model whose weights were nan from the start."
    )
