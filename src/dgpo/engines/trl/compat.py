"""What this adapter relies on in TRL, and which versions of TRL have been checked to keep it.

TRL changes fast. Everything the adapter overrides, calls or replaces is listed here with its parameters, and a contract
test compares the list with the installed TRL, so that a new version fails in one place with one clear message.
"""

from importlib.metadata import PackageNotFoundError, version

from dgpo.errors import UnsupportedVersionError

SUPPORTED = ((1, 16), (1, 17))
"""Lowest supported release, and the first one that is not supported any more."""

TRAINER_HOOKS: dict[str, tuple[str, ...]] = {
    # overridden
    "_compute_loss": ("self", "model", "inputs"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_get_train_sampler": ("self", "dataset"),
    "_get_per_token_logps_and_entropies": (
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
        *("batch_size", "compute_entropy", "compute_aux_loss"),
        *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
        *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
    ),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
    "_save_checkpoint": ("self", "model", "trial"),
    "log": ("self", "logs", "start_time"),
}
"""Methods of `GRPOTrainer` that `DGPOTrainer` overrides, with the parameters they must have."""

TRAINER_ATTRIBUTES = (
    "_buffered_inputs",
    "_metrics",
    "_step",
    "beta",
    "ref_model",
    "temperature",
    "_is_vlm",
    "_tokenizer",
)
"""Attributes of a constructed `GRPOTrainer` that the adapter reads or sets."""

HEAD_KERNEL_PARAMETERS = (
    *("ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size"),
    *("final_logit_softcapping", "logit_scale", "outputs"),
)
"""Parameters of the head kernel's `forward`, in order: our kernel is called in its place."""

HEAD_KERNEL_OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""What TRL's head kernel returns after the log-probabilities, in order."""


def supported_range() -> str:
    """Return the supported versions as pip would write them.

    Returns:
        A requirement.

    Example:
        >>> supported_range()
        'trl>=1.16,<1.17'
    """
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    return f"trl>={low},<{high}"


def check_trl_version(installed: str | None = None) -> None:
    """Refuse a TRL whose hooks have not been checked.

    Args:
        installed: Version to judge; that of the installed TRL by default.

    Raises:
        UnsupportedVersionError: If TRL is absent or outside of the supported range.

    Example:
        >>> check_trl_version("1.16.3")
    """
    if installed is None:
        try:
            installed = version("trl")
        except PackageNotFoundError:
            raise UnsupportedVersionError("TRL is not installed. Install it with: pip install 'dgpo[trl]'") from None
    release = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    low, high = SUPPORTED
    if not low <= release < high:
        raise UnsupportedVersionError(
            f"trl {installed} is installed, but this version of dgpo has been checked with {supported_range()} only; it"
            f" relies on TRL's inner hooks. Run: pip install '{supported_range()}'"
        )
