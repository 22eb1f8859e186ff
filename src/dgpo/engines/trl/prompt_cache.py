"""The prompt of a group runs once: its keys and values are computed for one completion and used for all."""

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from dgpo.versions import release_of

CACHE = "cache" if release_of(transformers.__version__, 2) >= (5, 24) else "past_key_values"
"""What the models of transformers call their cache."""

_ATTENTION = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of a cache that hold keys and values alone, from which attention continues; others have a state."""


def fits(model: Any) -> bool:
    """Return whether a causal language model of transformers can continue from a cache of keys and values.

    Args:
        model: Without wrappers; the base model of an adapter.

    Returns:
        False for recurrent models, whose state is more than keys and values.
    """
    takes_cache = CACHE in inspect.signature(model.base_model.forward).parameters
    return takes_cache and all(type(layer) in _ATTENTION for layer in DynamicCache(config=model.config).layers)


def score_after_prompts(model: Any, config: Any, ids: Tensor, mask: Tensor, length: int) -> bool:
    """Run TRL's fused forward pass of completions from the cached keys and values of their prompts.

    Args:
        model: A model with TRL's fused head that `fits`, wrapped or not.
        config: Of the model.
        ids: (B, L) int64, prompts and completions.
        mask: (B, L), non-zero where a token is attended to.
        length: Of the completions.

    Returns:
        Whether it ran. It does not where no two rows share a prompt, or the model has not filled the cache.
    """
    prefix = ids.size(1) - length - 1  # the last token of a prompt scores the first one of a completion
    if prefix < 1:
        return False
    prompts, prompt_of = torch.cat([ids, mask], dim=1)[:, _columns(ids, prefix)].unique(dim=0, return_inverse=True)
    if len(prompts) == len(ids):
        return False
    cache = DynamicCache(config=config)
    nothing = torch.full_like(prompts[:, :prefix], -100)
    _run(model, cache, prompts[:, :prefix], prompts[:, prefix:], nothing)
    if any(layer.get_seq_length() != prefix for layer in cache.layers):
        return False
    cache.batch_select_indices(prompt_of)
    labels = ids[:, -length:].masked_fill(mask[:, -length:] == 0, -100)
    _run(model, cache, ids[:, -length - 1 : -1], mask[:, :-1], labels)
    return True


def _columns(ids: Tensor, prefix: int) -> Tensor:
    """Return the places of the first ids and of their mask in rows of ids and mask, one after the other."""
    first = torch.arange(prefix, device=ids.device)
    return torch.cat([first, first + ids.size(1)])


def _run(model: Any, cache: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
    model(input_ids=ids, attention_mask=mask, **{CACHE: cache}, shift_labels=labels, fused_lm_head=True)
