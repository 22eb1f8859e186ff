"""Short trainings of the forks model in which one token has a vanishing probability under the reference or the policy.

The token is `hmm`, one of four that the model samples at each decoy with a probability of about 1/4. A constant on its
logit gives it any other probability and changes nothing else:

- `reference=PROBABILITY`: to the reference's logit; the policy goes on sampling the token.
- `policy=PROBABILITY`: to the policy's, sampling included; the token is seldom sampled.
- `stale=PROBABILITY`: to the policy's, but completions are sampled without it, as by an older policy.
"""

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

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
from dgpo.lab.tasks.forks import language, warm_up_model
from experiments.arms import Arm
from experiments.digests import CORE, digest, digest_of_files
from experiments.harness import Cell

CODE = (
    *CORE,
    "src/dgpo/rules.py",
    "src/dgpo/lab/tasks/forks/language.py",
    "src/dgpo/lab/tasks/forks/model.py",
    "experiments/gradient_stability/training.py",
)
"""What computes a cell: where it changes, cells are computed again. Committed results hold the digest of their code."""
BETA = 0.04
WORD = "hmm"
SETTINGS: Mapping[str, Any] = {
    "steps": 20,
    "prompts": 8,
    "num_generations": 8,
    "learning_rate": 5e-4,
    "max_grad_norm": 1.0,
    "num_forks": 4,
    "warm_up_steps": 600,
}


@dataclass
class Batch:
    """One step's completions and their log-probabilities under policy and reference.

    Attributes:
        logits: Of the policy, (B, T, V), with gradient.
        ref_logits: Of the reference.
        logps: log p of the sampled tokens, (B, T), with gradient.
        old_logps: The same of the policy that sampled, no gradient.
        ref_logps: The same of the reference.
        mask: True up to the end of each completion.
        rewards: (B,).
        advantages: (B,), of the rewards alone.
        num_generations: Completions per prompt.
    """

    logits: Tensor
    ref_logits: Tensor
    logps: Tensor
    old_logps: Tensor
    ref_logps: Tensor
    mask: Tensor
    rewards: Tensor
    advantages: Tensor
    num_generations: int


def _surrogate(batch: Batch, advantages: Tensor) -> Tensor:
    per_token = clipped_policy_loss(batch.logps, batch.old_logps, advantages, completion_mask=batch.mask)
    return aggregate_loss(per_token, batch.mask)


def _grpo(batch: Batch) -> Tensor:
    return _surrogate(batch, batch.advantages)


def _dgpo(tau: float) -> Callable[[Batch], Tensor]:
    arm = Arm("dgpo", {"tau": tau})

    def loss(batch: Batch) -> Tensor:
        logits = batch.logits.detach()
        stats = TokenStats(
            completion_mask=batch.mask,
            advantages=batch.advantages,
            entropy=per_token_entropy(logits),
            logps=batch.logps.detach(),
            old_logps=batch.old_logps,
            vocab_size=logits.shape[-1],
            hellinger_sq=per_token_hellinger_sq(logits, batch.ref_logits),
            ref_logps=batch.ref_logps,
        )
        return _surrogate(batch, assign_credit(stats, arm.credit_rule).token_advantages)

    return loss


def _k3(batch: Batch) -> Tensor:
    log_ratio = batch.ref_logps - batch.logps
    return _grpo(batch) + BETA * aggregate_loss(log_ratio.exp() - log_ratio - 1, batch.mask)


def _reverse_kl(batch: Batch) -> Tensor:
    return _grpo(batch) + BETA * aggregate_loss(per_token_kl(batch.logits, batch.ref_logits), batch.mask)


def _k1_in_reward(batch: Batch) -> Tensor:
    """Per token, beside the group's advantage: what a penalty of each token's reward does before any normalisation."""
    penalty = BETA * (batch.logps - batch.ref_logps).detach()
    return _surrogate(batch, batch.advantages[:, None] - penalty)


def _k1_normalised(batch: Batch) -> Tensor:
    """Summed over the completion, taken off its reward, and divided by the group's spread with it."""
    penalty = (BETA * (batch.logps - batch.ref_logps).detach() * batch.mask).sum(-1)
    return _surrogate(batch, group_advantages(batch.rewards - penalty, batch.num_generations))


RULES: Mapping[str, tuple[str, Callable[[Batch], Tensor]]] = {
    "grpo": ("GRPO", _grpo),
    "dgpo": ("DGPO, tau = 0.5", _dgpo(0.5)),
    "dgpo-sharp": ("DGPO, tau = 0.05", _dgpo(0.05)),
    "k3": ("GRPO + 0.04 KL, k3 in the loss", _k3),
    "reverse-kl": ("GRPO + 0.04 KL, over the vocabulary", _reverse_kl),
    "k1-in-reward": ("GRPO + 0.04 KL, k1 per token", _k1_in_reward),
    "k1-normalised": ("GRPO + 0.04 KL, k1 in the group's rewards", _k1_normalised),
}
"""Label and loss of each rule."""


def run(
    cells: Sequence[Cell], settings: Sequence[Mapping[str, Any]], *, models: Path | None = None
) -> list[dict[str, Any]]:
    """Return the result of each cell.

    Args:
        cells: What to train.
        settings: Those of `settings_of`, one per cell.
        models: Folder of the warmed-up models, those of other code apart; `dgpo.lab.models.cache_dir()` by default.

    Returns:
        Per cell `grad_norm` (before clipping) and `reward`, one value per step; `measured`, the mean probability of the
        token at decoys under the swept side before the first step.
    """
    folder = {} if models is None else {"DGPO_CACHE": str(models / digest_of_files(CODE))}
    with patch.dict(os.environ, folder):
        return [_train(cell, options) for cell, options in zip(cells, settings, strict=True)]


def settings_of(cell: Cell, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that decides a cell's result.

    Args:
        cell: Its variant is one of those above.
        overrides: In place of values of `SETTINGS`.

    Returns:
        The settings.
    """
    side, probability = cell.variant.split("=")
    settings = {**SETTINGS, **overrides, "side": side, "probability": float(probability), "beta": BETA, "word": WORD}
    return settings | {"rule": digest(RULES[cell.rule][1]), "code": digest_of_files(CODE)}


def _shift(probability: float) -> float:
    """What to add to the logit of a word of probability 1/4 so that it has this one."""
    return math.log(3 * probability / (1 - probability))


def _train(cell: Cell, options: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from dgpo.lab.quiet import quiet_libraries

    num_forks = options["num_forks"]
    path = warm_up_model(num_forks, cell.seed, steps=options["warm_up_steps"], progress=False)
    quiet_libraries()
    policy, reference = (AutoModelForCausalLM.from_pretrained(path).eval() for _ in range(2))
    shifts = {side: torch.zeros(len(language.WORDS)) for side in ("policy", "reference", "sampler")}
    swept = {"reference": ("reference",), "policy": ("policy", "sampler"), "stale": ("policy",)}[options["side"]]
    for side in swept:
        shifts[side][language.WORD_IDS[WORD]] = _shift(options["probability"])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=options["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    prompts = language.draw_forks(num_forks, random.Random(f"stability {cell.seed}"), held_out=False)
    generator = torch.Generator().manual_seed(cell.seed)
    loss_fn = RULES[cell.rule][1]
    result: dict[str, list[float]] = {"grad_norm": [], "reward": []}
    measured = math.nan
    for _ in range(options["steps"]):
        batch, ids = _batch(policy, reference, shifts, list(islice(prompts, options["prompts"])), options, generator)
        if math.isnan(measured):
            measured = _at_decoys(batch, ids, options["side"])
        loss = loss_fn(batch)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), options["max_grad_norm"])
        optimizer.step()
        result["grad_norm"].append(norm.item())
        result["reward"].append(batch.rewards.mean().item())
    return {**result, "measured": measured}


def _batch(
    policy: Any,
    reference: Any,
    shifts: Mapping[str, Tensor],
    forks: Sequence[language.Forks],
    options: Mapping[str, Any],
    generator: torch.Generator,
) -> tuple[Batch, Tensor]:
    copies = options["num_generations"]
    repeated = [pairs for pairs in forks for _ in range(copies)]
    bos = language.WORD_IDS[language.BOS]
    prompts = torch.tensor([[bos, *language.encode(language.prompt_text(pairs))] for pairs in repeated])
    completions = _sample(
        policy, shifts["sampler"], prompts, language.completion_length(options["num_forks"]), generator
    )
    ids, length = torch.cat([prompts, completions], -1), completions.shape[-1]
    plain = policy(ids).logits[:, -length - 1 : -1]
    logits = plain + shifts["policy"]
    with torch.no_grad():
        ref_logits = reference(ids).logits[:, -length - 1 : -1] + shifts["reference"]
    ended = (completions == language.WORD_IDS[language.EOS]).cumsum(-1)
    mask = (ended == 0) | ((ended == 1) & (completions == language.WORD_IDS[language.EOS]))
    texts = [
        " ".join(language.WORDS[token] for token, trained in zip(row, keep, strict=True) if trained and token > 3)
        for row, keep in zip(completions.tolist(), mask.tolist(), strict=True)
    ]
    answers = [language.answer_text(pairs) for pairs in repeated]
    rewards = torch.tensor([float(score or 0.0) for score in language.forks_reward(texts, answers)])
    return Batch(
        logits,
        ref_logits,
        _picked(logits, completions),
        _picked(plain.detach() + shifts["sampler"], completions),
        _picked(ref_logits, completions),
        mask,
        rewards,
        group_advantages(rewards, copies),
        copies,
    ), completions


def _picked(logits: Tensor, ids: Tensor) -> Tensor:
    return F.log_softmax(logits, -1).gather(-1, ids[..., None]).squeeze(-1)


@torch.no_grad()
def _sample(model: Any, shift: Tensor, prompts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Completions at temperature 1, (B, length); what follows `<eos>` is `<pad>`."""
    eos, pad = language.WORD_IDS[language.EOS], language.WORD_IDS[language.PAD]
    cache = DynamicCache(config=model.config)  # by position: transformers 5.24 gave the argument another name
    fed, tokens = prompts, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(length):
        logits = model(fed, None, None, cache).logits[:, -1]
        token = torch.multinomial((logits + shift).softmax(-1), 1, generator=generator).squeeze(-1)
        token = torch.where(ended, torch.full_like(token, pad), token)
        tokens.append(token)
        ended |= token == eos
        fed = token[:, None]
    return torch.stack(tokens, -1)


def _at_decoys(batch: Batch, completions: Tensor, side: str) -> float:
    """Mean probability of the token where the model samples a style word."""
    style = torch.tensor([language.WORD_IDS[word] for word in language.STYLE_WORDS])
    decoys = torch.isin(completions, style) & batch.mask
    logits = batch.ref_logits if side == "reference" else batch.logits.detach()
    return logits.softmax(-1)[..., language.WORD_IDS[WORD]][decoys].mean().item()
