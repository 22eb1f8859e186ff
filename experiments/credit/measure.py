"""What is recorded of a training: curves, where the credit lands, gradient norms, and the trained policy's figures."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dgpo.core import Credit, TokenStats, gated_scores
from dgpo.lab.evaluation.metrics import pass_at_k
from experiments.credit import layout as language
from experiments.credit.model import Parameters, sample

EVAL_SAMPLES = 8


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Return the probability that a labelled token scores above another one, ties counting half.

    Args:
        scores: (N,).
        labels: (N,) bool.

    Returns:
        From 0 to 1; nan unless both kinds occur.

    Example:
        >>> auroc(torch.tensor([0.1, 0.5, 0.5, 0.9]), torch.tensor([False, False, True, True]))    # 3.5 of 4 pairs
        0.875
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


class Log:
    """Collects figures of all seeds while they train.

    Args:
        num_seeds: S.
    """

    def __init__(self, num_seeds: int) -> None:
        self._rewards: list[list[float]] = [[] for _ in range(num_seeds)]
        self._mixed: list[list[float]] = [[] for _ in range(num_seeds)]
        self._norms: list[list[float]] = [[] for _ in range(num_seeds)]
        self._clipped: list[list[float]] = [[] for _ in range(num_seeds)]
        self._credit: list[list[dict[str, Any]]] = [[] for _ in range(num_seeds)]

    def rewards(self, rewards: Tensor, advantages: Tensor) -> None:
        """Take the rewards and advantages of a rollout, (S, B) each."""
        for index, (one, spread) in enumerate(
            zip(rewards.mean(1).tolist(), (advantages != 0).float().mean(1).tolist(), strict=True)
        ):
            self._rewards[index].append(one)
            self._mixed[index].append(spread)

    def update(self, norms: Tensor, clipped: Tensor) -> None:
        """Take the gradient norms of an update before clipping and the share of ratios outside of the clip, (S,)."""
        for index, (norm, share) in enumerate(zip(norms.tolist(), clipped.tolist(), strict=True)):
            self._norms[index].append(norm)
            self._clipped[index].append(share)

    def credit(self, step: int, stats: Sequence[TokenStats], credit: Sequence[Credit], rollout: Any) -> None:
        """Take where the credit of a rollout went.

        Args:
            step: Of the training.
            stats: Of each seed.
            credit: Of each seed.
            rollout: The completions.
        """
        for index, (one, assigned) in enumerate(zip(stats, credit, strict=True)):
            mask = one.completion_mask
            size = (assigned.token_advantages if assigned.weights is None else assigned.weights).abs()
            assert one.hellinger_sq is not None
            row: dict[str, Any] = {"step": step, "entropy": float(one.entropy[mask].mean())}
            causes = (rollout.causal[index] != 0)[mask]
            row["auroc"] = auroc(size[mask], causes)
            # Of the signals themselves on these very completions, whatever the rule makes of them: between rules they
            # would also differ by what the policies have become.
            score = gated_scores(one.hellinger_sq, one.entropy, vocab_size=one.vocab_size)
            for name, signal in (("d", one.hellinger_sq), ("h", one.entropy), ("d*h", score)):
                row[f"auroc {name}"] = auroc(signal[mask], causes)
            shares = size.sum(-1).square() / size.square().sum(-1).clamp(min=1e-12) / mask.sum(-1)
            row["effective_share"] = float(shares[size.sum(-1) > 0].mean()) if bool((size > 0).any()) else float("nan")
            row["max_weight"] = float(size.max())
            total = float(size[mask].sum())
            for role, where in rollout.roles.items():
                here = where[index]
                if not bool(here.any()):
                    continue
                row[role] = {
                    "tokens": float(here.sum() / mask.sum()),
                    "credit": float(size[here].sum()) / total if total else float("nan"),
                    "d": float(one.hellinger_sq[here].mean()),
                    "entropy": float(one.entropy[here].mean()),
                }
            self._credit[index].append(row)

    def records(self, final: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return everything, one record per seed."""
        return [
            {
                "rewards": rewards,
                "mixed_groups": mixed,
                "grad_norms": norms,
                "clipped": sum(clipped) / max(len(clipped), 1),
                "credit": credit,
                "final": end,
            }
            for rewards, mixed, norms, clipped, credit, end in zip(
                self._rewards, self._mixed, self._norms, self._clipped, self._credit, final, strict=True
            )
        ]


def final_figures(
    parameters: Parameters, layout: language.Layout, seeds: Sequence[int], num_prompts: int
) -> list[dict[str, Any]]:
    """Return the held-out figures of the trained policies; all seeds and rules are asked the same prompts.

    Args:
        parameters: Of S seeds.
        layout: Of prompts and completions.
        seeds: Their names, from which the samples are drawn.
        num_prompts: Held-out prompts.

    Returns:
        Per seed: `accuracy` at T = 1, `greedy`, `pass@k`, and the share of completions without a pick for every pair.
    """
    digits = language.Prompts(layout, "credit held out", held_out=True).take(num_prompts)
    every = digits.expand(len(seeds), *digits.shape)
    size = (num_prompts * EVAL_SAMPLES, layout.length)
    uniforms = torch.stack([torch.rand(size, generator=torch.Generator().manual_seed(5000 + seed)) for seed in seeds])
    figures: list[dict[str, Any]] = [{} for _ in seeds]
    for copies, luck in ((EVAL_SAMPLES, uniforms), (1, None)):
        sampled = sample(
            parameters,
            language.prompt_ids(every),
            luck,
            num_generations=copies,
            length=layout.length,
            eos=language.EOS,
            pad=language.PAD,
        )
        for index, completions in enumerate(sampled):
            scores = language.rewards(completions, digits.repeat_interleave(copies, 0)).view(num_prompts, copies)
            if luck is None:
                figures[index]["greedy"] = float(scores.mean())
                continue
            picks = language.token_roles(layout, completions)["pivot"].sum(-1)
            figures[index]["accuracy"] = float(scores.mean())
            figures[index]["malformed"] = float((picks != layout.num_forks).float().mean())
            for k in (2, 4, 8):
                each = [pass_at_k(copies, int(right), k) for right in scores.sum(1)]
                figures[index][f"pass@{k}"] = sum(each) / num_prompts
    return figures
