"""Rows are packed into one before policy and reference run on them (`padding_free`).

With flash attention, transformers runs rows of several lengths as one row without padding, which it knows by positions
that begin anew. TRL's GRPO pads. Packed here is what enters the backbone; what leaves it is put back into padded rows,
so that TRL's head and loss do not notice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from dgpo.engines.trl import prompt_cache
from dgpo.engines.trl.lengths import has_relative_positions
from dgpo.errors import ConfigError


def check_padding_free(trainer: Any) -> None:
    """Refuse `padding_free` where rows of a pack would see each other, or be scored otherwise than padded.

    Args:
        trainer: A `DGPOTrainer`, constructed.

    Raises:
        ConfigError: Naming what the model has and what to use in its place.
    """
    if not trainer.args.padding_free:
        return
    remedy = "Use sort_by_length=True, which leaves most of the padding out."
    for model in (trainer.model, trainer.ref_model):
        if model is None:
            continue
        causal = without_wrappers(trainer.accelerator.unwrap_model(model))
        attention = causal.config.get_text_config()._attn_implementation
        if "flash" not in attention:
            raise ConfigError(
                f"padding_free=True needs flash attention, and the model has attn_implementation={attention!r}, which"
                " compares all tokens of a pack with all others. Set attn_implementation='flash_attention_2' (or"
                f" another of transformers' flash attentions, on a GPU). {remedy}"
            )
        if not prompt_cache.fits(causal):
            raise ConfigError(
                f"padding_free=True needs a model of attention alone; {type(causal).__name__} has layers with a state,"
                f" which one completion of a pack would hand to the next. {remedy}"
            )
        if not has_relative_positions(causal.config.get_text_config()):
            raise ConfigError(
                f"padding_free=True needs rotary positions that depend on distances alone; those of"
                f" {type(causal).__name__} depend on the padding, with which its completions were sampled. Leave"
                " padding_free out."
            )
    if trainer.aux_loss_enabled:
        raise ConfigError(
            "padding_free=True does not go with a load-balancing loss, which TRL computes over padded rows."
            f" Set router_aux_loss_coef to 0. {remedy}"
        )


def without_wrappers(model: Any) -> PreTrainedModel:
    """Return the causal language model inside of an adapter, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner


def packing(trainer: Any, score: Callable[..., Any]) -> Callable[..., Any]:
    """Return TRL's method that calls a model with padded rows, such that its backbone runs on one row without padding.

    Args:
        trainer: A `DGPOTrainer`.
        score: Called with a model, ids (B, L), mask (B, L) and more.

    Returns:
        A method with the same result, but for the order of additions; `score` itself where `padding_free` is off.
    """
    if not trainer.args.padding_free:
        return score

    def packed(model: Any, *args: Any, **kwargs: Any) -> Any:
        with _packed(without_wrappers(trainer.accelerator.unwrap_model(model)).base_model):
            return score(model, *args, **kwargs)

    return packed


@contextmanager
def _packed(backbone: Any) -> Iterator[None]:
    masks: list[Tensor] = []

    def pack(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].bool()
        masks.append(mask)
        positions = (mask.cumsum(-1) - 1)[mask]
        one_row = {"input_ids": kwargs["input_ids"][mask][None], "position_ids": positions[None]}
        return args, {**kwargs, **one_row, "attention_mask": None}

    def unpack(module: Any, args: Any, output: Any) -> Any:
        mask, hidden = masks.pop(), output.last_hidden_state[0]
        rows = hidden.new_zeros(*mask.shape, hidden.size(-1))
        output.last_hidden_state = rows.index_put(mask.to(hidden.device).nonzero(as_tuple=True), hidden)
        return output

    hooks = [backbone.register_forward_pre_hook(pack, with_kwargs=True), backbone.register_forward_hook(unpack)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
