"""What one scoring pass gives, and which model is the reference."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter


@dataclass(frozen=True)
class Scores:
    """Statistics of a batch of completions.

    Attributes:
        logps: (B, T), log-probabilities under the policy, with gradient where it is trained.
        entropy: (B, T), H in nats; likewise.
        aux_loss: Load-balancing loss of a mixture of experts; None without one.
        per_token: (B, T) statistics without gradient by the names of `TokenStats`; empty where the credit is known.
    """

    logps: Tensor
    entropy: Tensor
    aux_loss: Tensor | None = None
    per_token: Mapping[str, Tensor] = field(default_factory=dict)

    def as_trl_wants(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what TRL's `_get_per_token_logps_and_entropies` returns."""
        return self.logps, self.entropy, self.aux_loss

    @classmethod
    def cat(cls, parts: Sequence["Scores"]) -> "Scores":
        """Return the scores of all rows."""
        losses = [part.aux_loss for part in parts if part.aux_loss is not None]
        return cls(
            torch.cat([part.logps for part in parts]),
            torch.cat([part.entropy for part in parts]),
            torch.stack(losses).mean() if losses else None,
            {name: torch.cat([part.per_token[name] for part in parts]) for name in parts[0].per_token},
        )


def is_reference(trainer: Any, model: Any) -> bool:
    """Return whether a model that TRL is about to score is the reference: a model of its own, or an adapter's state."""
    if trainer.ref_model is not None:
        return model is trainer.ref_model
    policy = trainer.accelerator.unwrap_model(model)
    if not hasattr(policy, "peft_config"):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next(module for module in policy.modules() if isinstance(module, BaseTunerLayer))
    return bool(layer.disable_adapters) or "ref" in layer.active_adapters


@contextmanager
def reference_policy(trainer: Any) -> Iterator[Any]:
    """Yield the model to call for the reference, as TRL does for its KL term.

    Args:
        trainer: A `DGPOTrainer` with a reference.

    Yields:
        Any: A model of its own, or the policy with another state of its adapter.
    """
    options = trainer.args.gradient_checkpointing_kwargs
    with torch.no_grad(), disable_gradient_checkpointing(trainer.model, options):
        if trainer.ref_model is not None:
            yield trainer.ref_model
            return
        policy = trainer.accelerator.unwrap_model(trainer.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            yield trainer.model
