"""Everything that this adapter relies on in TRL, in one list, and the versions of TRL that were tested.

TRL changes fast. What the adapter overrides, calls or replaces stands here with its parameters. `hook_differences`
compares the list with the installed TRL: in a contract test, and at run time before a trainer is built, so that another
version fails in one place, by the name of the hook that differs.
"""

import inspect
from collections.abc import Callable
from typing import Any

from dgpo.versions import check_version

SUPPORTED = ((1, 15), (1, 17))
"""Lowest supported release, and the first one that is not supported any more."""

TRAINER_HOOKS: dict[str, tuple[str, ...]] = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_compute_loss": ("self", "model", "inputs"),
    "_generate": ("self", "prompts"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_generate_single_turn": (
        *("self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
    ),
    "evaluation_loop": (
        *("self", "dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"),
    ),
    "_get_train_sampler": ("self", "dataset"),
    "_get_per_token_logps_and_entropies": (
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
        *("batch_size", "compute_entropy", "compute_aux_loss"),
        *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
        *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
    ),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_save_checkpoint": ("self", "model", "trial"),
    "log": ("self", "logs", "start_time"),
    "train": ("self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"),
}
"""Methods of `GRPOTrainer` that `DGPOTrainer` overrides, with the parameters they must have."""

WATCHED = ("_compute_loss", "_generate_and_score_completions")
"""Methods of a `GRPOTrainer` that `dgpo.watch` surrounds on one trainer, whose class stays as it is."""


CALLED_BY_US: dict[str, tuple[str, ...]] = {"_tokenize_prompts": ("self", "prompts")}
"""Methods of `GRPOTrainer` that the adapter calls, with the parameters they must have."""

CALLED_BY_TRL: dict[str, tuple[str, ...]] = {
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "training_step": ("self", "model", "inputs", "num_items_in_batch"),
}
"""Methods of `GRPOTrainer` that lead to `_compute_loss` and must be TRL's own: a package that replaces them would train
plain GRPO without a word."""

CLIENT_HOOKS: dict[str, tuple[str, ...]] = {
    "_post": ("self", "url", "kwargs"),
    "init_communicator": ("self", "device"),
    "update_named_params": ("self", "metadata", "named_params"),
}
"""Methods of `VLLMClient` that are overridden on a CPU, with the parameters they must have."""

TRAINER_PARAMETERS = (
    *("self", "model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class"),
    *("reward_processing_classes", "callbacks", "optimizers", "quantization_config", "peft_config", "tools"),
    *("rollout_func", "environment_factory"),
)
"""Parameters of the constructor of `GRPOTrainer`, which ours repeats."""

TRAINER_ATTRIBUTES = (
    *("_buffered_inputs", "_entropy_bonus_enabled", "_logs", "_metrics", "_step", "_tokenizer"),
    *("aux_loss_enabled", "beta", "eos_token_ids", "num_generations", "num_generations_eval", "num_iterations"),
    *("ref_model", "reward_func_names", "reward_weights", "temperature", "top_entropy_quantile", "use_vllm"),
)
"""Attributes of a constructed `GRPOTrainer` that the adapter reads or sets."""

HEAD_KERNEL_PARAMETERS = (
    *("ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size"),
    *("final_logit_softcapping", "logit_scale", "outputs"),
)
"""Parameters of the head kernel's `forward`, in order: ours is called in its place."""

HEAD_KERNEL_OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""What TRL's head kernel returns after the log-probabilities, in order."""

HEAD_CALL = "_ChunkedLogProbFunction.apply("
"""How TRL's fused forward calls the kernel."""

ASKS_WHERE = "_use_triton"
"""By this function TRL 1.16 scores all positions where there is no Triton; 1.15 has no such choice."""

HEAD_SOURCE = {
    True: (
        *(HEAD_CALL, f"compact = {ASKS_WHERE}(hidden_states.device)"),
        "log_probs, entropy, log_sum_sq_probs, mean_logits, is_top1 = per_token",
    ),
    False: (HEAD_CALL, "hidden_states[mask],", "log_probs, entropy, log_sum_sq_probs, mean_logits, is_top1 = ("),
}
"""How it chooses the positions and reads what the kernel returns, where it asks and where it does not."""

LOSS_SOURCE = (
    "self._get_per_token_logps_and_entropies(",
    'advantages = inputs["advantages"]',
    "if advantages.dim() == 1:",
    'inputs.get("old_per_token_logps")',
    'inputs["ref_per_token_logps"]',
)
"""How TRL's `_compute_loss` scores once and reads one advantage a token."""

REFERENCE_SOURCE = (
    "self.beta = args.beta\n        if self.beta == 0.0:",
    "elif is_peft_model(model) and args.beta != 0.0:",
)
"""How TRL's constructor builds a reference where `beta` is not 0."""


def hook_differences() -> list[str]:
    """Return what of the installed TRL differs from what this adapter relies on.

    Returns:
        One sentence for each difference, with the hook's name; empty where everything matches.

    Example:
        >>> hook_differences()
        []
    """
    import trl.trainer.utils as trl_utils
    from trl import GRPOTrainer
    from trl.generation.vllm_generation import VLLMClient, VLLMGeneration

    differences = []
    for name, parameters in {**TRAINER_HOOKS, **CALLED_BY_US, **CALLED_BY_TRL}.items():
        differences += _method_differences(GRPOTrainer, name, parameters)
    differences += _method_differences(GRPOTrainer, "__init__", TRAINER_PARAMETERS)
    differences += _method_differences(VLLMGeneration, "_iter_named_params", ("self",))  # merges and unmerges adapters
    for name, parameters in CLIENT_HOOKS.items():
        differences += _method_differences(VLLMClient, name, parameters)
    kernel = getattr(trl_utils, "_ChunkedLogProbFunction", None)
    if kernel is None or not hasattr(trl_utils, "add_fused_lm_head"):
        return [*differences, "trl.trainer.utils has no fused LM head (_ChunkedLogProbFunction)"]
    head_source = HEAD_SOURCE[hasattr(trl_utils, ASKS_WHERE)]
    differences += _method_differences(kernel, "forward", HEAD_KERNEL_PARAMETERS)
    for function, name, lines in (
        (trl_utils.add_fused_lm_head, "trl.trainer.utils.add_fused_lm_head", head_source),
        (GRPOTrainer._compute_loss, "GRPOTrainer._compute_loss", LOSS_SOURCE),
        (GRPOTrainer.__init__, "GRPOTrainer.__init__", REFERENCE_SOURCE),
    ):
        differences += _source_differences(function, name, lines)
    return differences


def _method_differences(owner: Any, name: str, parameters: tuple[str, ...]) -> list[str]:
    label, method = f"{owner.__name__}.{name}", getattr(owner, name, None)
    if method is None:
        return [f"{label} does not exist"]
    module = inspect.unwrap(method).__module__
    if not module.startswith(("trl.", "transformers.")):
        return [f"{label} was replaced by {module}, so that training would not be DGPO's"]
    given = tuple(inspect.signature(method).parameters)
    return [] if given == parameters else [f"{label} has the parameters ({', '.join(given)})"]


def _source_differences(function: Callable[..., Any], name: str, lines: tuple[str, ...]) -> list[str]:
    source = inspect.getsource(inspect.unwrap(function))
    return [f"{name} does not contain {line!r}" for line in lines if line not in source]


def check_trl_version(installed: str | None = None) -> None:
    """Refuse a TRL whose hooks have not been tested, or were replaced by another package.

    `DGPO_ALLOW_UNTESTED_TRL=1` tries another version whose hooks all match, with one warning.

    Args:
        installed: Version to judge; that of the installed TRL by default.

    Raises:
        UnsupportedVersionError: If TRL is absent, outside of the supported range, or a hook differs.

    Example:
        >>> check_trl_version("1.15.3")
    """
    check_version("trl", SUPPORTED, installed, find_differences=lambda: hook_differences())


def _report() -> int:
    from importlib.metadata import version

    packages = ("trl", "transformers", "torch", "accelerate", "datasets", "peft")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    differences = hook_differences()
    print(*(differences or ["Every hook is as dgpo relies on it."]), sep="\n")
    return int(bool(differences))


if __name__ == "__main__":
    raise SystemExit(_report())
