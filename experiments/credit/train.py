"""Training of several seeds at once in one arm: sample, score, credit, update. All of the method is `dgpo.core`'s."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgpo.core import (
    TokenStats,
    aggregate_loss,
    assign_credit,
    clipped_policy_loss,
    group_advantages,
    per_token_entropy,
    per_token_hellinger_sq,
    per_token_kl,
)
from experiments.credit import layout as language
from experiments.credit import measure
from experiments.credit.model import Parameters, completion_logits, sample
from experiments.credit.oracles import CreditArm, OracleStats
from experiments.credit.variants import Variant
from experiments.credit.warm_up import started_models

MAX_GRAD_NORM = 1.0
MEASURED_EVERY = 10


@dataclass(frozen=True)
class Rollout:
    """Completions of one policy, and what is known of them; S seeds first.

    Attributes:
        prompts: (S, B, L) ids, each prompt repeated for its G completions.
        completions: (S, B, T) ids.
        mask: (S, B, T), True up to `<eos>`.
        rewards: (S, B).
        advantages: (S, B).
        causal: (S, B, T) of -1, 0 and 1.
        roles: Role to (S, B, T).
        num_picks: Picks that a completion has to make, K.
    """

    prompts: Tensor
    completions: Tensor
    mask: Tensor
    rewards: Tensor
    advantages: Tensor
    causal: Tensor
    roles: dict[str, Tensor]
    num_picks: int = 1


def train(
    variant: Variant, arm: CreditArm, seeds: Sequence[int], models: Path, *, eval_prompts: int = 128
) -> list[dict[str, Any]]:
    """Return what happened to each seed; a seed's result does not depend on the others.

    Args:
        variant: The setting.
        arm: How tokens are credited.
        seeds: Of weights, prompts and samples: equal ones meet equal conditions in every arm.
        models: Folder of the warmed-up models.
        eval_prompts: Held-out prompts at the end.

    Returns:
        One record per seed, as JSON would hold it.
    """
    policy, reference = started_models(variant.warm_up, seeds, models)
    if arm.reference_steps:
        _, reference = started_models(replace(variant.warm_up, steps=arm.reference_steps), seeds, models)
    parameters = {name: value.clone().requires_grad_() for name, value in policy.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=variant.learning_rate, weight_decay=0.0)
    log = measure.Log(len(seeds))
    for step, rollout in enumerate(_rollouts(variant, seeds, parameters)):
        optimizer.param_groups[0]["lr"] = variant.learning_rate * (1 - step / variant.num_rollouts)
        if arm.refresh_every and step and step % arm.refresh_every == 0:
            reference = {name: value.detach().clone() for name, value in parameters.items()}
        with torch.no_grad():
            ref_logits = completion_logits(reference, rollout.prompts, rollout.completions)
        log.rewards(rollout.rewards, rollout.advantages)
        rules = [arm.rule_for(OracleStats(causal, rollout.num_picks)) for causal in rollout.causal]
        old_logps = None
        for update in range(variant.num_updates):
            logits = completion_logits(parameters, rollout.prompts, rollout.completions)
            stats = token_stats(logits, ref_logits, rollout, old_logps, variant.num_generations)
            old_logps = old_logps if old_logps is not None else [one.logps for one in stats]
            credit = [assign_credit(one, rule) for one, rule in zip(stats, rules, strict=True)]
            token_advantages = [one.token_advantages for one in credit]
            loss = policy_loss(
                logits,
                rollout,
                old_logps,
                token_advantages,
                ref_logits,
                beta=arm.beta,
                epsilon_high=variant.clip_high,
            )
            optimizer.zero_grad()
            loss.backward()
            log.update(clip_each_seed(parameters), clipped_share(logits, rollout, old_logps))
            if update == 0 and (step % MEASURED_EVERY == 0 or step == variant.num_rollouts - 1):
                log.credit(step, stats, credit, rollout)
            optimizer.step()
    trained = {name: value.detach() for name, value in parameters.items()}
    return log.records(measure.final_figures(trained, variant.warm_up.layout, seeds, eval_prompts))


def _rollouts(variant: Variant, seeds: Sequence[int], parameters: Parameters) -> Iterator[Rollout]:
    """Rollouts of whatever `parameters` hold when the next one is asked for."""
    layout, copies = variant.warm_up.layout, variant.num_generations
    streams = [language.Prompts(layout, f"credit train {seed}") for seed in seeds]
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    for _ in range(variant.num_rollouts):
        digits = language.stacked(streams, variant.num_prompts)
        size = (variant.num_prompts * copies, layout.length)
        uniforms = torch.stack([torch.rand(size, generator=generator) for generator in generators])
        ids = language.prompt_ids(digits)
        completions = sample(
            parameters, ids, uniforms, num_generations=copies, length=layout.length, eos=language.EOS, pad=language.PAD
        )
        yield described(layout, ids, digits, completions, copies)


def described(layout: language.Layout, ids: Tensor, digits: Tensor, completions: Tensor, copies: int) -> Rollout:
    """Return completions with their rewards, advantages, roles and causes.

    Args:
        layout: What a completion looks like.
        ids: (S, P, L), of the prompts.
        digits: (S, P, K, 2), of the prompts.
        completions: (S, P * copies, T) ids.
        copies: G.

    Returns:
        The rollout.
    """
    shape = completions.shape
    flat, repeated = completions.flatten(0, 1), digits.repeat_interleave(copies, 1).flatten(0, 1)
    scores = language.rewards(flat, repeated)
    roles = language.token_roles(layout, flat)
    return Rollout(
        prompts=ids.repeat_interleave(copies, 1),
        completions=completions,
        mask=language.trained_mask(completions),
        rewards=scores.view(shape[:2]),
        advantages=group_advantages(scores, copies).view(shape[:2]),
        causal=language.causal_signs(roles["pivot"], flat, repeated).view(shape),
        roles={role: where.view(shape) for role, where in roles.items()},
        num_picks=layout.num_forks,
    )


def _logps(logits: Tensor, completions: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, completions[..., None])[..., 0]


@torch.no_grad()
def token_stats(
    logits: Tensor, ref_logits: Tensor, rollout: Rollout, old_logps: Sequence[Tensor] | None, num_generations: int
) -> list[TokenStats]:
    """Return what a rule may read, of each seed.

    Args:
        logits: (S, B, T, V) of the policy being updated.
        ref_logits: (S, B, T, V) of the reference.
        rollout: The completions.
        old_logps: Per seed (B, T) of the policy that sampled; `None` when it is the policy being updated.
        num_generations: G.

    Returns:
        One per seed.
    """
    logps, ref_logps = _logps(logits, rollout.completions), _logps(ref_logits, rollout.completions)
    distance, kl, entropy = (
        per_token_hellinger_sq(logits, ref_logits),
        per_token_kl(logits, ref_logits),
        per_token_entropy(logits),
    )
    group = torch.arange(logits.shape[1]) // num_generations
    return [
        TokenStats(
            completion_mask=rollout.mask[index],
            advantages=rollout.advantages[index],
            entropy=entropy[index],
            logps=logps[index],
            old_logps=logps[index] if old_logps is None else old_logps[index],
            vocab_size=logits.shape[-1],
            hellinger_sq=distance[index],
            ref_logps=ref_logps[index],
            rewards=rollout.rewards[index],
            group=group,
            kl=kl[index],
        )
        for index in range(len(logits))
    ]


def policy_loss(
    logits: Tensor,
    rollout: Rollout,
    old_logps: Sequence[Tensor],
    token_advantages: Sequence[Tensor],
    ref_logits: Tensor,
    *,
    beta: float = 0.0,
    epsilon_high: float = 0.2,
) -> Tensor:
    """Return the sum over seeds of each seed's own loss, so that each seed's gradient is its own.

    Args:
        logits: (S, B, T, V) with gradient.
        rollout: The completions.
        old_logps: Per seed (B, T).
        token_advantages: Per seed (B, T).
        ref_logits: (S, B, T, V).
        beta: Factor of the KL penalty exp(x) - x - 1 with x = ref logp - logp, as in GRPO's paper (TRL:
            `use_bias_correction_kl=False`).
        epsilon_high: Upper clip width.

    Returns:
        A scalar.
    """
    logps, ref_logps = _logps(logits, rollout.completions), _logps(ref_logits, rollout.completions)
    total = logits.new_zeros(())
    for index, advantages in enumerate(token_advantages):
        mask = rollout.mask[index]
        loss = clipped_policy_loss(
            logps[index], old_logps[index], advantages, epsilon_high=epsilon_high, completion_mask=mask
        )
        if beta:
            ahead = ref_logps[index] - logps[index]
            loss = loss + beta * (ahead.exp() - ahead - 1)
        total = total + aggregate_loss(loss, mask)
    return total


@torch.no_grad()
def clipped_share(logits: Tensor, rollout: Rollout, old_logps: Sequence[Tensor]) -> Tensor:
    """Return the share of tokens whose probability ratio lies outside of 1 +- 0.2, (S,)."""
    change = _logps(logits, rollout.completions) - torch.stack(list(old_logps))
    outside = ((change.exp() - 1).abs() > 0.2) & rollout.mask
    return outside.sum((1, 2)) / rollout.mask.sum((1, 2))


def clip_each_seed(parameters: Parameters) -> Tensor:
    """Scale each seed's gradient to a norm of at most `MAX_GRAD_NORM`; return the norms before, (S,)."""
    gradients = [value.grad for value in parameters.values() if value.grad is not None]
    norms = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    factors = (MAX_GRAD_NORM / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
    return norms
