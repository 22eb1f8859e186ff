"""A tiny transformer for several seeds at once: every parameter has a leading dimension of seeds.

Llama's block (RMS norms, gated MLP, tied head) with learned positions: in a language of fixed layout they learn to copy
within a hundred updates, rotary ones within many hundreds.

A model this small is bound by the overhead of its operations, not by arithmetic; ten seeds in one batched product cost
little more than one. Seeds never meet: products are batched over them, everything else is elementwise or by row, and
each seed draws its random numbers from a generator of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = 2
_EPS = 1e-6

Parameters = dict[str, Tensor]
"""Name to (S, ...): one slice per seed."""


@dataclass(frozen=True)
class Shape:
    """Size of the model.

    Attributes:
        vocab_size: V.
        num_positions: Longest prompt and completion together.
        hidden_size: Width H, a multiple of 8.
        num_layers: Depth.
    """

    vocab_size: int
    num_positions: int
    hidden_size: int = 32
    num_layers: int = 2


def initial_parameters(shape: Shape, seeds: Sequence[int]) -> Parameters:
    """Return untrained parameters; those of a seed depend on that seed alone.

    Args:
        shape: Size of the model.
        seeds: One slice per seed.

    Returns:
        Parameters, float32.
    """
    h, inner = shape.hidden_size, 3 * shape.hidden_size
    sizes: dict[str, tuple[int, ...]] = {
        "embed": (shape.vocab_size, h),
        "position": (shape.num_positions, h),
        "norm": (h,),
    }
    for layer in range(shape.num_layers):
        sizes |= {
            f"{layer}.norm_attention": (h,),
            f"{layer}.qkv": (h, 3 * h),
            f"{layer}.out": (h, h),
            f"{layer}.norm_mlp": (h,),
            f"{layer}.gate_up": (h, 2 * inner),
            f"{layer}.down": (inner, h),
        }
    stacked: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for name, size in sizes.items():
            scale = 0.2 if name in ("embed", "position") else size[0] ** -0.5
            drawn = torch.randn(size, generator=generator) * scale
            stacked[name].append(torch.ones(size) if "norm" in name else drawn)
    return {name: torch.stack(drawn) for name, drawn in stacked.items()}


def completion_logits(parameters: Parameters, prompts: Tensor, completions: Tensor) -> Tensor:
    """Return the logits that predict each token of the completions.

    Args:
        parameters: Of S seeds.
        prompts: (S, B, L) ids.
        completions: (S, B, T) ids, padded on the right; no position looks ahead, so padding changes nothing before it.

    Returns:
        (S, B, T, V), with gradient.
    """
    num_seeds, batch, length = prompts.shape
    ids = torch.cat([prompts, completions[..., :-1]], -1)
    total = ids.shape[-1]
    x = _embedded(parameters, ids, 0)
    for layer in range(_num_layers(parameters)):
        q, k, v = _qkv(parameters, layer, x, total)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = _rest_of_layer(parameters, layer, x, mixed)
    predicting = x.view(num_seeds, batch, total, -1)[:, :, length - 1 :]
    return _logits(parameters, predicting.reshape(num_seeds, -1, x.shape[-1])).view(
        num_seeds, batch, -1, _vocab(parameters)
    )


@torch.no_grad()
def sample(
    parameters: Parameters,
    prompts: Tensor,
    uniforms: Tensor | None,
    *,
    num_generations: int,
    length: int,
    eos: int,
    pad: int,
) -> Tensor:
    """Return completions at temperature 1, or greedy ones.

    Args:
        parameters: Of S seeds.
        prompts: (S, P, L) ids.
        uniforms: (S, P * num_generations, length) in [0, 1): what decides each token; `None` for greedy completions.
            Equal numbers and equal distributions give equal tokens, so that rules can share their luck.
        num_generations: Completions per prompt; those of a prompt lie next to each other.
        length: Largest number of tokens.
        eos: Ends a completion.
        pad: Fills it up.

    Returns:
        (S, P * num_generations, length) ids.
    """
    num_seeds, num_prompts, prompt_length = prompts.shape
    batch, total = num_prompts * num_generations, prompt_length + length
    logits, caches = _prefilled(parameters, prompts, total, num_generations)
    out = torch.full((num_seeds, batch, length), pad)
    ended = torch.zeros(num_seeds, batch, dtype=torch.bool)
    for position in range(length):
        token = _chosen(logits, None if uniforms is None else uniforms[..., position])
        token = torch.where(ended, torch.full_like(token, pad), token)
        out[..., position] = token
        ended |= token == eos
        if position + 1 == length or bool(ended.all()):
            break
        at = prompt_length + position
        x = _embedded(parameters, token[..., None], at)
        for layer, (cached_k, cached_v) in enumerate(caches):
            q, k, v = _qkv(parameters, layer, x, 1)
            cached_k[:, :, at : at + 1], cached_v[:, :, at : at + 1] = k, v
            mixed = F.scaled_dot_product_attention(q, cached_k[:, :, : at + 1], cached_v[:, :, : at + 1])
            x = _rest_of_layer(parameters, layer, x, mixed)
        logits = _logits(parameters, x)
    return out


def _prefilled(
    parameters: Parameters, prompts: Tensor, total: int, copies: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits (S, B, V) after the prompts, and keys and values with room for `total` positions, prompts repeated."""
    num_seeds, num_prompts, length = prompts.shape
    x = _embedded(parameters, prompts, 0)
    caches = []
    for layer in range(_num_layers(parameters)):
        q, k, v = _qkv(parameters, layer, x, length)
        caches.append((_with_room(k, total, copies), _with_room(v, total, copies)))
        x = _rest_of_layer(parameters, layer, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    last = x.view(num_seeds, num_prompts, length, -1)[:, :, -1].repeat_interleave(copies, 1)
    return _logits(parameters, last), caches


def _with_room(values: Tensor, total: int, copies: int) -> Tensor:
    rows, heads, length, size = values.shape
    room = values.new_zeros(rows * copies, heads, total, size)
    room[:, :, :length] = values.repeat_interleave(copies, 0)
    return room


def _chosen(logits: Tensor, uniforms: Tensor | None) -> Tensor:
    if uniforms is None:
        return logits.argmax(-1)
    below = logits.softmax(-1).cumsum(-1) <= uniforms[..., None]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def _num_layers(parameters: Parameters) -> int:
    return sum(name.endswith(".qkv") for name in parameters)


def _vocab(parameters: Parameters) -> int:
    return parameters["embed"].shape[1]


def _embedded(parameters: Parameters, ids: Tensor, start: int) -> Tensor:
    """(S, B, L) ids of which the first stands at position `start`, to (S, B * L, H)."""
    table = parameters["embed"]
    num_seeds, vocab_size, width = table.shape
    length = ids.shape[-1]
    shifted = ids + vocab_size * torch.arange(num_seeds)[:, None, None]
    words = F.embedding(shifted, table.reshape(-1, width))
    return (words + parameters["position"][:, None, start : start + length]).view(num_seeds, -1, width)


def _logits(parameters: Parameters, x: Tensor) -> Tensor:
    return torch.bmm(_normed(x, parameters["norm"]), parameters["embed"].transpose(1, 2))


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=_EPS) * weight[:, None]


def _qkv(parameters: Parameters, layer: int, x: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """(S, N, H) to three of (S * N / length, heads, length, H / heads)."""
    projected = torch.bmm(_normed(x, parameters[f"{layer}.norm_attention"]), parameters[f"{layer}.qkv"])
    heads = projected.view(-1, length, 3, HEADS, x.shape[-1] // HEADS).permute(2, 0, 3, 1, 4)
    return heads[0], heads[1], heads[2]


def _rest_of_layer(parameters: Parameters, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
    """Output projection and MLP, with their residuals."""
    joined = mixed.transpose(1, 2).reshape(x.shape)
    x = x + torch.bmm(joined, parameters[f"{layer}.out"])
    gate, up = torch.bmm(_normed(x, parameters[f"{layer}.norm_mlp"]), parameters[f"{layer}.gate_up"]).chunk(2, -1)
    return x + torch.bmm(F.silu(gate) * up, parameters[f"{layer}.down"])
