"""Measures one question: completions, the value of their prefixes, and what each signal says of their tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgpo.engines.offline import pair_stats
from dgpo.lab.evaluation.sampling import seed_of
from experiments.value_ground_truth.questions import ANSWER, PLAIN, SIBLING, SOLUTION, Question
from experiments.value_ground_truth.sampling import Continuations

HINTS = (ANSWER, SOLUTION, SIBLING)
GOLD, LOG_GOLD, TAUGHT = "gold likelihood", "gold log-likelihood", "gold log-likelihood, taught"
"""Signals that a prefix has, and not a token. Taught: by worked examples that are interrupted and answered."""


@dataclass(frozen=True)
class Settings:
    """What decides the figures.

    Attributes:
        model: Whose completions and values these are.
        reference: What is shown hints, and what the model is compared with.
        task: Of the questions.
        questions: How many.
        completions: Of each question.
        every: Tokens between two prefixes whose value is measured.
        continuations: Of each prefix; its value is the share of them that is right.
        max_tokens: Longest completion.
        seed: Of everything.
        dtype: Of the weights.
        batch_size: Rows at once while sampling; part of the seed, as batches draw together.
    """

    model: str
    reference: str
    task: str
    questions: int = 16
    completions: int = 4
    every: int = 4
    continuations: int = 16
    max_tokens: int = 40
    seed: int = 0
    dtype: str = "auto"
    batch_size: int = 64


@dataclass(frozen=True)
class Models:
    """What is loaded.

    Attributes:
        policy: The model.
        reference: Another one, or the same object.
        tokenizer: Of both.
        sampler: Of the policy.
        stub: Asks for the gold answer behind a prefix.
    """

    policy: Any
    reference: Any
    tokenizer: Any
    sampler: Continuations
    stub: str


def measured(question: Question, models: Models, settings: Settings) -> dict[str, Any]:
    """Return everything that is measured of a question.

    Args:
        question: It.
        models: What answers and scores.
        settings: How much.

    Returns:
        As JSON would hold it: `question`, `gold`, and per completion `text`, `tokens`, `reward`, `cuts` (tokens before
        each prefix's end), `right` (how many continuations were, per cut), and `signals`: per name a number a token,
        or, for `GOLD`, `LOG_GOLD` and `TAUGHT`, one a cut and one for the end.
    """
    plain = question.prompt_ids(PLAIN, "")
    decode = models.tokenizer.decode
    budget = settings.max_tokens
    ids = models.sampler.sample([plain], [budget], settings.completions, seed_of(settings.seed, question.number, 0))[0]
    rewards = [question.score(decode(one, skip_special_tokens=True)) for one in ids]
    cuts = [list(range(0, len(one), settings.every)) for one in ids]
    prefixes = {tuple(one[:cut]): None for one, places in zip(ids, cuts, strict=True) for cut in places}
    continued = models.sampler.sample(
        [[*plain, *prefix] for prefix in prefixes],
        [budget - len(prefix) for prefix in prefixes],
        settings.continuations,
        seed_of(settings.seed, question.number, 1),
    )
    right = {
        prefix: int(sum(question.score(decode([*prefix, *rest], skip_special_tokens=True)) for rest in several))
        for prefix, several in zip(prefixes, continued, strict=True)
    }
    found = []
    for number, (one, places) in enumerate(zip(ids, cuts, strict=True)):
        hints = dict(question.hint_texts)
        siblings = [other for other in range(len(ids)) if other != number and rewards[other] == 1.0]
        if siblings:
            best = min(siblings, key=lambda other: (len(ids[other]), other))
            hints[SIBLING] = decode(ids[best], skip_special_tokens=True)
        found.append(
            {
                "text": decode(one),
                "tokens": len(one),
                "reward": rewards[number],
                "cuts": places,
                "right": [right[tuple(one[:cut])] for cut in places],
                "signals": _signals(question, models, one, places, hints) if one else {},
            }
        )
    return {"question": question.number, "gold": question.gold, "completions": found}


def _signals(
    question: Question, models: Models, ids: list[int], cuts: Sequence[int], hints: dict[str, str]
) -> dict[str, list[float]]:
    plain, scored = torch.tensor(question.prompt_ids(PLAIN, "")), torch.tensor(ids)
    own = pair_stats(models.policy, models.reference, plain, scored, ref_prompt_ids=plain)
    signals = {"entropy": own["entropy"], "surprisal": -own["logps"]}
    if models.policy is not models.reference:
        signals |= {
            "d": own["hellinger_sq"],
            "d h": own["hellinger_sq"] * own["entropy"],
            "log-ratio": own["logps"] - own["ref_logps"],
        }
    for kind, text in hints.items():
        told = torch.tensor(question.prompt_ids(kind, text))
        stats = pair_stats(models.reference, models.reference, told, scored, ref_prompt_ids=plain)
        distance, log_ratio = stats["hellinger_sq"], stats["logps"] - stats["ref_logps"]
        signals |= {
            f"{kind}: d": distance,
            f"{kind}: d h": distance * own["entropy"],
            f"{kind}: i": log_ratio,
            f"{kind}: i d": log_ratio.clamp(-2, 2) * distance,
        }
    given: dict[str, Tensor | list[float]] = dict(signals)
    attention = _attentions(models, plain, scored, question.gold)
    if attention is not None:
        given["attention of the answer"] = attention
    gold = _gold_logps(models, plain, scored, [*cuts, len(ids)], question.gold)
    given |= {GOLD: [math.exp(logp) for logp in gold], LOG_GOLD: gold}
    if question.interrupted_ids is not None:
        taught = torch.tensor(question.interrupted_ids)
        given[TAUGHT] = _gold_logps(models, taught, scored, [*cuts, len(ids)], question.gold)
    return {name: [round(float(value), 5) for value in values] for name, values in given.items()}


def _asked(models: Models, gold: str) -> tuple[list[int], int]:
    """A stub that asks for the gold answer, with the answer; and how many tokens of it are the answer."""
    # Tokenized together: a tokenizer may join the last space of the stub with the first letter of the answer.
    stub = models.tokenizer(models.stub.rstrip(), add_special_tokens=False)["input_ids"]
    asked = models.tokenizer(models.stub + gold, add_special_tokens=False)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(stub, asked, strict=False)) if a != b), min(len(stub), len(asked)))
    return asked, len(asked) - shared


@torch.no_grad()
def _gold_logps(models: Models, prompt: Tensor, ids: Tensor, cuts: Sequence[int], gold: str) -> list[float]:
    """Log-probability of the gold answer after each prefix and a stub that asks for it."""
    asked, width = _asked(models, gold)
    answer = torch.tensor(asked[len(asked) - width :])
    found = []
    for cut in cuts:
        read = torch.cat([prompt, ids[:cut], torch.tensor(asked, dtype=torch.long)])[None].to(models.policy.device)
        logits = models.policy(input_ids=read, logits_to_keep=width + 1).logits[0, :-1].float().cpu()
        logps = logits.log_softmax(-1)[torch.arange(width), answer]
        found.append(float(logps.sum()))
    return found


@torch.no_grad()
def _attentions(models: Models, plain: Tensor, ids: Tensor, gold: str) -> Tensor | None:
    """Mean attention of the positions that predict the gold answer, behind the stub, to each token: (T,).

    Over all layers and heads; None for a model without attention weights.
    """
    asked, width = _asked(models, gold)
    read = torch.cat([plain, ids, torch.tensor(asked, dtype=torch.long)])[None].to(models.policy.device)
    fast = models.policy.config._attn_implementation
    models.policy.set_attn_implementation("eager")  # the fused kernels never hold the weights
    try:
        layers = models.policy(input_ids=read, output_attentions=True, logits_to_keep=1).attentions
    finally:
        models.policy.set_attn_implementation(fast)
    if not layers:
        return None
    inside = slice(len(plain), len(plain) + len(ids))
    rows = [layer[0, :, -width - 1 : -1, inside].float().mean((0, 1)) for layer in layers]
    return torch.stack(rows).mean(0).cpu()
