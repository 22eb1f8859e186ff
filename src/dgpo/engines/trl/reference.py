"""The reference that a watched trainer is compared with: what TRL has, the adapter switched off, or a checkpoint."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, create_model_from_path, use_adapter

from dgpo.engines.trl import checks, heads, prompt_cache
from dgpo.engines.trl.padding_free import without_wrappers
from dgpo.errors import ConfigError

logger = logging.getLogger(__name__)

AUTO = "auto"


class Reference:
    """A frozen model that scores completions of a trainer beside its policy, and disturbs nothing of the training.

    Args:
        trainer: The trainer.
        checkpoint: A model of its own, on this process alone; by default what TRL has: its reference model, or the
            policy without its adapter.

    Attributes:
        name: What it is, in words.
        is_shared: Whether it is cut over the processes, so that all of them must run it at once.
    """

    def __init__(self, trainer: Any, checkpoint: Any = None) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint
        self.is_shared = checkpoint is None and bool(trainer.is_fsdp_enabled)
        if checkpoint is not None:
            self.name = str(checkpoint.config._name_or_path)
        else:
            self.name = "TRL's reference model" if trainer.ref_model is not None else "the model without its adapter"

    @torch.no_grad()
    def score(self, ids: Tensor, mask: Tensor, length: int) -> heads.ReferenceHead:
        """Return hidden states and head for the last `length` tokens of some rows.

        Args:
            ids: (B, L) int64, prompts and completions.
            mask: (B, L), non-zero where a token is attended to.
            length: Of the completions.

        Returns:
            One row for each completion token that `mask` holds.
        """
        trainer = self._trainer
        with self._model() as model, heads.reference_pass(copy_head=self.is_shared) as passed:
            score_frozen(trainer, model, ids, mask, length, is_sharded=self.is_shared)
        return passed[-1]

    @contextmanager
    def _model(self) -> Iterator[Any]:
        trainer = self._trainer
        own = self._checkpoint if self._checkpoint is not None else trainer.ref_model
        model = trainer.model if own is None else own
        with undisturbed(model, trainer.accelerator.device):
            model.eval()
            if own is not None:
                yield own
                return
            policy = trainer.accelerator.unwrap_model(model)
            with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
                yield model


def score_frozen(trainer: Any, model: Any, ids: Tensor, mask: Tensor, length: int, *, is_sharded: bool) -> None:
    """Call a frozen model's head for the last `length` tokens of some rows; each prompt runs once where that can be.

    The head's last call is that of the completions. One for the prompts may come before it, of no token.

    Args:
        trainer: Whose model it is.
        model: The model, wrapped or not.
        ids: (B, L) int64, prompts and completions.
        mask: (B, L), non-zero where a token is attended to.
        length: Of the completions.
        is_sharded: Whether it is cut over the processes, which must all make the same calls.
    """
    if not is_sharded:
        plain = without_wrappers(trainer.accelerator.unwrap_model(model))
        with trainer.accelerator.autocast():
            if prompt_cache.fits(plain) and prompt_cache.score_after_prompts(model, plain.config, ids, mask, length):
                return
    # TRL's own method, whatever a subclass makes of it.
    GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, ids, mask, length)


@contextmanager
def undisturbed(model: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Restore what a pass may change: torch's random numbers; of a model, modes and which parameters are trained."""
    modes = {} if model is None else {module: module.training for module in model.modules()}
    trained = {} if model is None else {parameter: parameter.requires_grad for parameter in model.parameters()}
    on_device = device.type != "cpu"
    index = [device.index or 0] if on_device else []
    fork = torch.random.fork_rng(index, device_type=device.type) if on_device else torch.random.fork_rng([])
    try:
        with fork:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, is_trained in trained.items():  # PEFT sets it when an adapter is switched off and on
            if parameter.requires_grad != is_trained:
                parameter.requires_grad_(is_trained)


def find_reference(trainer: Any, reference: str | Path | None) -> Reference | None:
    """Return the reference of a trainer; with `"auto"` none, and a warning, where the one that there is cannot be used.

    Args:
        trainer: The trainer.
        reference: `"auto"`: TRL's reference model, or else the policy without its adapter, or else none. None: none. A
            name or path of a checkpoint.

    Returns:
        The reference. A checkpoint is loaded on the main process; on the others there is none.

    Raises:
        ConfigError: If the checkpoint does not fit the policy.
    """
    if reference is None:
        return None
    is_auto = reference == AUTO
    has_adapter = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    if is_auto and trainer.ref_model is None and not has_adapter:
        return None
    try:
        if isinstance(trainer.processing_class, ProcessorMixin):
            raise ConfigError("Prompts with images or sound are not passed on to a reference; use reference=None.")
        plugin = trainer.args.deepspeed_plugin
        if is_auto and plugin is not None and plugin.zero_stage == 3:
            raise ConfigError("DeepSpeed ZeRO-3 cuts the reference into pieces; name a checkpoint, or reference=None.")
        if is_auto:
            _check_adapters(trainer)
            return Reference(trainer)
    except ConfigError as error:
        if not is_auto:
            raise
        logger.warning("The policy is watched without a reference. %s", error)
        return None
    return Reference(trainer, _load(trainer, str(reference))) if trainer.accelerator.is_main_process else None


def _check_adapters(trainer: Any) -> None:
    if trainer.ref_model is not None:
        checks.check_same_vocabulary(trainer.model, trainer.accelerator.unwrap_model(trainer.ref_model))
        return
    adapters = trainer.accelerator.unwrap_model(trainer.model).peft_config
    for name, adapter in adapters.items():
        checks.check_adapter(adapter, has_copy=name == "ref" or "ref" in adapters)


def _load(trainer: Any, path: str) -> Any:
    args, policy, device = trainer.args, trainer.model, trainer.accelerator.device
    options = {"trust_remote_code": args.trust_remote_code, "dtype": policy.dtype, "device_map": None}
    options["attn_implementation"] = policy.config._attn_implementation
    with undisturbed(None, device):
        try:
            model = create_model_from_path(path, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"The reference {path!r} cannot be loaded: {error}") from error
    checks.check_same_vocabulary(policy, model)
    checks.check_same_tokenizer(trainer._tokenizer, path)
    add_fused_lm_head(model, temperature=trainer.temperature, cast_lm_head_to_fp32=args.cast_lm_head_to_fp32)
    return model.requires_grad_(False).eval().to(device)
