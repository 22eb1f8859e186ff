"""What this adapter relies on in verl, and which versions of verl have been checked to keep it.

Everything that is overridden, called or replaced is listed with its parameters, and a contract test compares the list
with the installed verl, so that a new version fails in one place with one clear message.
"""

from importlib.metadata import PackageNotFoundError, version

from dgpo.errors import UnsupportedVersionError

SUPPORTED = ((0, 9, 1), (0, 9, 2))
"""Lowest supported release, and the first one that is not supported any more."""

TRAINER_HOOKS: dict[str, tuple[str, ...]] = {
    "_init_resource_pool_mgr": ("self",),
    "_compute_old_log_prob": ("self", "batch", "metrics"),
    "_compute_ref_log_prob": ("self", "batch", "metrics"),
    "_compute_advantage": ("self", "batch", "metrics"),
    "on_init_end": ("self",),
}
"""Methods of `PPOTrainerSync` that `DGPOTrainer` overrides, with the parameters they must have."""

ENGINE_HOOKS: dict[str, tuple[str, ...]] = {
    "_build_module": ("self",),
    "forward_backward_batch": ("self", "data", "loss_function", "forward_only"),
    "forward_step": ("self", "micro_batch", "loss_function", "forward_only"),
    "prepare_model_inputs": ("self", "micro_batch"),
    "prepare_model_outputs": ("self", "output", "output_args", "micro_batch", "logits_processor_func"),
}
"""Methods of `FSDPEngineWithLMHead` that `HeadStatistics` overrides."""

ENGINE_CALLS: dict[str, tuple[str, ...]] = {
    "eval_mode": ("self", "kwargs"),
    "disable_adapter": ("self",),
    "_gather_and_unpad_packed": ("self", "tensor", "pad_size"),
}
"""Methods of `FSDPEngineWithLMHead` that are called."""

WORKER_HOOKS: dict[str, tuple[str, ...]] = {"init_model": ("self",)}
"""Methods of `ActorRolloutRefWorker` that `DGPOWorker` overrides."""


def supported_range() -> str:
    """Return the supported versions as pip would write them.

    Returns:
        A requirement.

    Example:
        >>> supported_range()
        'verl>=0.9.1,<0.9.2'
    """
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    return f"verl>={low},<{high}"


def check_verl_version(installed: str | None = None) -> None:
    """Refuse a verl whose hooks have not been checked.

    Args:
        installed: Version to judge; that of the installed verl by default.

    Raises:
        UnsupportedVersionError: If verl is absent or outside of the supported range.

    Example:
        >>> check_verl_version("0.9.1.post1")
    """
    if installed is None:
        try:
            installed = version("verl")
        except PackageNotFoundError:
            raise UnsupportedVersionError("verl is not installed. Install it with: pip install 'dgpo[verl]'") from None
    numbers = [int(part) for part in installed.split(".")[:3] if part.isdigit()]
    release = tuple(numbers + [0] * (3 - len(numbers)))
    low, high = SUPPORTED
    if not low <= release < high:
        raise UnsupportedVersionError(
            f"verl {installed} is installed, but this version of dgpo has been checked with {supported_range()} only;"
            f" it relies on verl's inner hooks. Run: pip install '{supported_range()}'"
        )
