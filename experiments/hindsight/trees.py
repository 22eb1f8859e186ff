"""Monte-Carlo trees at about the sampled tokens of GRPO: fewer roots, and continuations from a chosen token of each."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgpo.core import entropy_gate, per_token_entropy, per_token_hellinger_sq
from experiments.credit import layout as language
from experiments.credit.model import Parameters, completion_logits, sample
from experiments.credit.train import Rollout, described
from experiments.hindsight.arms import Tree

CONTINUATIONS = 2


class Grown(NamedTuple):
    """Roots and branches of one round of sampling.

    Attributes:
        rollout: Roots, then branches, with masks that leave out a branch's prefix.
        token_advantages: (S, B, T).
        sampled: Tokens that were sampled.
        scored: Tokens that were scored to choose the branch points.
        hits: Share of the branch points that are decisions, (S,).
    """

    rollout: Rollout
    token_advantages: Tensor
    sampled: int
    scored: int
    hits: Tensor


@torch.no_grad()
def grown(
    tree: Tree,
    parameters: Parameters,
    reference: Parameters,
    layout: language.Layout,
    digits: Tensor,
    copies: int,
    generators: Sequence[torch.Generator],
) -> Grown:
    """Sample roots, branch at one token of each, and return the advantages of the tree.

    V of a branch point is the mean reward of all that continues from it, V of a prompt that of its branch points. Up to
    the branch point a token's advantage is V(point) - V(prompt), after it reward - V(point), in standard deviations of
    the rewards of a prompt's tree. Tokens after the point weigh 1 / (continuations + 1) each, the root's own included.

    Args:
        tree: Where it branches.
        parameters: Of the policy.
        reference: Of the reference.
        layout: What a completion looks like.
        digits: (S, P, K, 2), of the prompts.
        copies: G of GRPO; half of it are roots.
        generators: One per seed.

    Returns:
        The tree.
    """
    ids, length = language.prompt_ids(digits), layout.length
    num_roots = max(1, copies // 2)
    rows = ids.shape[1] * num_roots
    uniforms = torch.stack([torch.rand((rows, length), generator=generator) for generator in generators])
    options = {"length": length, "eos": language.EOS, "pad": language.PAD}
    roots = described(
        layout, ids, digits, sample(parameters, ids, uniforms, num_generations=num_roots, **options), num_roots
    )
    scores, scored = _scores(tree, parameters, reference, roots)
    points = torch.stack(
        [torch.multinomial(one, 1, generator=generator) for one, generator in zip(scores, generators, strict=True)]
    )
    fresh = torch.stack([torch.rand((rows * CONTINUATIONS, length), generator=generator) for generator in generators])
    spread = lambda values: values.repeat_interleave(CONTINUATIONS, 1)  # noqa: E731
    positions, start = torch.arange(length), spread(points)
    # Equal numbers and equal distributions give equal tokens: a branch repeats its root up to the branch point.
    luck = torch.where(positions < start, spread(uniforms), fresh)
    continued = sample(parameters, ids, luck, num_generations=num_roots * CONTINUATIONS, **options)
    branches = described(layout, ids, digits, continued, num_roots * CONTINUATIONS)
    repeats = ((continued == spread(roots.completions)) | (positions >= start)).all(-1, keepdim=True)
    own = branches.mask & (positions >= start) & repeats
    advantages = _advantages(roots, branches, points, own, num_roots)
    joined: dict[str, Any] = {
        name: torch.cat([getattr(roots, name), getattr(branches, name)], 1)
        for name in ("prompts", "completions", "rewards", "advantages", "causal")
    }
    mask = torch.cat([roots.mask, own], 1)
    roles = {role: torch.cat([where, branches.roles[role]], 1) for role, where in roots.roles.items()}
    decisions = roots.causal.gather(-1, points) != 0
    return Grown(
        dataclasses.replace(roots, **joined, mask=mask, roles=roles),
        advantages,
        int(mask.sum()),
        scored,
        decisions.float().mean((1, 2)),
    )


def _scores(tree: Tree, parameters: Parameters, reference: Parameters, roots: Rollout) -> tuple[Tensor, int]:
    """What branch points are drawn in proportion to, above 0 on the mask alone, and the tokens scored for it."""
    mask = roots.mask
    if tree.at in ("random", "decisions"):
        given = torch.ones(mask.shape) if tree.at == "random" else (roots.causal != 0).float()
        return torch.where(mask, given + 1e-6, 0.0), 0
    logits = completion_logits(parameters, roots.prompts, roots.completions)
    entropy = per_token_entropy(logits)
    gate = entropy_gate(entropy, vocab_size=logits.shape[-1])
    if tree.at == "h":
        return torch.where(mask, gate + 1e-6, 0.0), int(mask.sum())
    distance = per_token_hellinger_sq(logits, completion_logits(reference, roots.prompts, roots.completions))
    score = distance * gate if tree.at == "d*h" else distance
    # Before the first update d is 0, and entropy decides.
    return torch.where(mask, score + 1e-9 * gate + 1e-12, 0.0), 2 * int(mask.sum())


def _advantages(roots: Rollout, branches: Rollout, points: Tensor, own: Tensor, num_roots: int) -> Tensor:
    num_seeds, rows, length = roots.completions.shape
    after = branches.rewards.view(num_seeds, rows, CONTINUATIONS)
    at_point = torch.cat([roots.rewards[..., None], after], -1).mean(-1)
    at_prompt = at_point.view(num_seeds, -1, num_roots).mean(-1)
    whole = torch.cat(
        [roots.rewards.view(num_seeds, -1, num_roots), branches.rewards.view(num_seeds, -1, num_roots * CONTINUATIONS)],
        -1,
    )
    deviation = whole.std(-1) + 1e-4
    per_root = lambda values: values.repeat_interleave(num_roots, 1)[..., None]  # noqa: E731
    share = 1 / (CONTINUATIONS + 1)
    before = torch.arange(length) < points
    main = torch.where(
        before,
        at_point[..., None] - per_root(at_prompt),
        share * (roots.rewards - at_point)[..., None],
    )
    ends = share * (after - at_point[..., None]).flatten(1)[..., None] * own
    per_branch = deviation.repeat_interleave(num_roots * CONTINUATIONS, 1)[..., None]
    return torch.cat([main * roots.mask / per_root(deviation), ends / per_branch], 1)
