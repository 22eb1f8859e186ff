"""What is recorded of a training, and the figures of the trained policy, leaks included."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.credit import layout as language
from experiments.credit.measure import auroc
from experiments.credit.model import Parameters, completion_logits, sample
from experiments.credit.train import Rollout
from experiments.hindsight import hints
from experiments.hindsight.signals import Opinion, Values
from experiments.hindsight.starts import Start
from experiments.hindsight.trees import Grown

EVAL_SAMPLES = 4


class Record:
    """Collects figures of all seeds while they train.

    Args:
        num_seeds: S.
    """

    def __init__(self, num_seeds: int) -> None:
        self._rewards: list[list[float]] = [[] for _ in range(num_seeds)]
        self._norms: list[list[float]] = [[] for _ in range(num_seeds)]
        self._signals: list[dict[str, list[float]]] = [{} for _ in range(num_seeds)]
        self._tokens = {"sampled_tokens": 0, "trained_tokens": 0, "scored_tokens": 0, "updates": 0}

    def rollout(self, rollout: Rollout, tree: Grown | None, num_prompts: int) -> None:
        """Take the mean reward of each seed; of a tree that of its roots, since branches start half-way."""
        rewards = rollout.rewards
        if tree is not None:
            roots = rewards.shape[1] // 3
            rewards = rewards[:, :roots]
            self.scored(tree.scored)
            for index, hit in enumerate(tree.hits.tolist()):
                self._signals[index].setdefault("branch_hits", []).append(hit)
        for index, mean in enumerate(rewards.mean(1).tolist()):
            self._rewards[index].append(mean)
        self._tokens["sampled_tokens"] += int(rollout.mask.sum())

    def scored(self, tokens: int) -> None:
        """Count tokens of forward passes that GRPO does not make."""
        self._tokens["scored_tokens"] += tokens

    def update(self, norms: Tensor, tokens: int) -> None:
        """Take the gradient norms of an update before clipping, (S,), and the tokens that it trained on."""
        for index, norm in enumerate(norms.tolist()):
            self._norms[index].append(norm)
        self._tokens["trained_tokens"] += tokens
        self._tokens["updates"] += 1

    def signals(self, rollout: Rollout, opinion: Opinion | None, values: Values | None) -> None:
        """Take how well a signal knows which tokens decided, and whether they were right."""
        if opinion is not None:
            self._aurocs(rollout, opinion.log_ratio, opinion.hellinger_sq, (opinion.hellinger_sq > 0).any(-1))
        elif values is not None:
            last = values.at_cuts.shape[-1] - 2
            changes = values.at_cuts.diff(dim=-1).gather(-1, values.segment.clamp(max=last))
            self._aurocs(rollout, changes, None, torch.ones_like(rollout.rewards, dtype=torch.bool))

    def _aurocs(self, rollout: Rollout, sign: Tensor, place: Tensor | None, has_signal: Tensor) -> None:
        for index, causal in enumerate(rollout.causal):
            where = rollout.mask[index] & has_signal[index][:, None]
            at = where & (causal != 0)
            series = self._signals[index]
            series.setdefault("sign_auroc", []).append(auroc(sign[index][at], causal[at] > 0))
            if place is not None:
                series.setdefault("place_auroc", []).append(auroc(place[index][where], causal[where] != 0))
                series.setdefault("hinted", []).append(float(has_signal[index].float().mean()))

    def records(self, final: Sequence[dict[str, Any]], cpu_seconds: float) -> list[dict[str, Any]]:
        """Return everything, one record per seed; counts of tokens are means over the seeds of a stack."""
        count = len(final)
        tokens = {name: value if name == "updates" else value / count for name, value in self._tokens.items()}
        return [
            {
                "rewards": self._rewards[index],
                "grad_norms": self._norms[index],
                "signals": self._signals[index],
                "cost": tokens | {"cpu_seconds": cpu_seconds},
                "final": final[index],
            }
            for index in range(count)
        ]


@torch.no_grad()
def final_figures(
    parameters: Parameters, start: Start, layout: language.Layout, seeds: Sequence[int], num_prompts: int
) -> list[dict[str, Any]]:
    """Return the held-out figures of trained policies, without a hint; all seeds and arms are asked the same prompts.

    `overconfidence` is how much more probable the policy's favourite of the two digits is, on average over the picks,
    than it is right: a policy that acts as if it had been told the answer is sure of picks that are wrong.

    Args:
        parameters: Of S seeds.
        start: What prompts look like.
        layout: Of prompts and completions.
        seeds: Their names, from which the samples are drawn.
        num_prompts: Held-out prompts.

    Returns:
        Per seed: `accuracy`, `malformed`, `confidence`, `pick_accuracy`, `overconfidence` and, where prompts have a
        slot, `follows_wrong_hint`: the share of picks that follow a wrong hint.
    """
    digits = language.Prompts(layout, "credit held out", held_out=True).take(num_prompts)
    every = digits.expand(len(seeds), *digits.shape)
    ids = language.prompt_ids(every)
    size = (num_prompts * EVAL_SAMPLES, layout.length)
    uniforms = torch.stack([torch.rand(size, generator=torch.Generator().manual_seed(5000 + seed)) for seed in seeds])
    options = {"length": layout.length, "eos": language.EOS, "pad": language.PAD}
    plain = start.prompts(ids, layout.num_forks)
    sampled = sample(parameters, plain, uniforms, num_generations=EVAL_SAMPLES, **options)
    repeated = digits.repeat_interleave(EVAL_SAMPLES, 0)
    figures: list[dict[str, Any]] = []
    for completions in sampled:
        picks = language.token_roles(layout, completions)["pivot"].sum(-1)
        figures.append(
            {
                "accuracy": float(language.rewards(completions, repeated).mean()),
                "malformed": float((picks != layout.num_forks).float().mean()),
            }
        )
    first = slice(None, None, EVAL_SAMPLES)
    for index, (sure, right) in enumerate(_picks(parameters, plain, every, layout, sampled[:, first])):
        figures[index] |= {"confidence": sure, "pick_accuracy": right, "overconfidence": sure - right}
    if start.has_slot:
        told = hints.with_hint(ids, hints.wrong_picks(every))
        followed = sample(parameters, told, uniforms[:, first], num_generations=1, **options)
        for index, completions in enumerate(followed):
            pivot = language.token_roles(layout, completions)["pivot"]
            at = (pivot.cumsum(-1) - 1).clamp(0, layout.num_forks - 1)
            wrong = completions == hints.wrong_picks(digits).gather(-1, at)
            figures[index]["follows_wrong_hint"] = float(wrong[pivot].float().mean())
    return figures


def _picks(
    parameters: Parameters, prompts: Tensor, digits: Tensor, layout: language.Layout, completions: Tensor
) -> list[tuple[float, float]]:
    """Per seed, over the picks: mean probability of the more probable digit, and how often it is the right one."""
    probabilities = completion_logits(parameters, prompts, completions).softmax(-1)
    right, wrong = hints.right_picks(digits), hints.wrong_picks(digits)
    figures = []
    for index, one in enumerate(completions):
        pivot = language.token_roles(layout, one)["pivot"]
        at = (pivot.cumsum(-1) - 1).clamp(0, layout.num_forks - 1)
        expected = probabilities[index]
        good, bad = (expected.gather(-1, ids[index].gather(-1, at)[..., None])[..., 0][pivot] for ids in (right, wrong))
        total = good + bad
        figures.append((float((torch.maximum(good, bad) / total).mean()), float((good > bad).float().mean())))
    return figures
