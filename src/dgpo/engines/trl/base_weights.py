"""The base model of an adapter that TRL pushes to vLLM: its weights are put back after each push."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

logger = logging.getLogger(__name__)


def keep_base_weights(trainer: Any) -> None:
    """Make each push of an adapter to vLLM leave the base model as it was, to the last bit.

    TRL adds the adapter to the base weights, pushes their sum and subtracts the adapter again, which is rounded in the
    dtype of the weights. The base model is the reference: in bfloat16 it would drift away from the checkpoint, and the
    policy with it. One copy of the weights under the adapter is held in the memory of the host.

    Args:
        trainer: A `DGPOTrainer`, constructed.
    """
    if not trainer.use_vllm or not hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config"):
        return
    generation = trainer.vllm_generation
    generation._iter_named_params = _Restoring(generation.model, generation._iter_named_params)


class _Restoring:
    """TRL's iteration over the merged parameters, after which the base weights are put back."""

    def __init__(self, model: nn.Module, merged: Any) -> None:
        self._model, self._merged = model, merged
        self._copies: list[tuple[Tensor, Tensor]] | None = None  # weight, and its copy from before the first push

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        if self._copies is None:
            self._copies = [(weight, weight.detach().cpu().clone()) for weight in _base_weights(self._model)]
        try:
            yield from self._merged()
        finally:
            with torch.no_grad():
                for weight, copy in self._copies:
                    weight.copy_(copy)


def _base_weights(model: nn.Module) -> list[Tensor]:
    """Return this rank's part of the frozen weights that a merge changes in place; say so where one cannot be kept."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = []
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            own = module.get_base_layer().parameters(recurse=False)
            found += [weight for weight in own if not weight.requires_grad]
    if not all(weight.is_floating_point() for weight in found):
        logger.warning(
            "The base model is quantized, and each push of the adapter to vLLM quantizes it anew: the reference moves"
            " away from the checkpoint. Train without vLLM, or without quantization, where distances must be exact."
        )
    found = [weight for weight in found if weight.is_floating_point()]
    return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in found]
