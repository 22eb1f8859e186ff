"""Rules that are told more than a real training can know, or that read the hinted reference in other ways.

They are ordinary rules with one argument more, `told`, which the training loop binds for each batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dgpo import TokenStats, credit_rule, redistribution_weights
from dgpo.core import HINDSIGHT_STATS


class Told(NamedTuple):
    """What a rule is told besides `TokenStats`.

    Attributes:
        causal: 1 or -1 at each pick while the prefix is still right, 0 elsewhere, (B, T).
        values: Values at the start of a completion and after each pick, (B, K + 1); None where the arm has none.
        segment: Which stretch between the cuts a token is in, (B, T).
    """

    causal: Tensor
    values: Tensor | None = None
    segment: Tensor | None = None


def scaled(term: Tensor, stats: TokenStats, by: str) -> Tensor:
    """Return a term divided by its root mean square over trained tokens.

    Args:
        term: (B, T), 0 off the mask.
        stats: Of the batch.
        by: Over the tokens of the `"batch"`, of the completions of a `"group"`, or of a `"completion"`.

    Returns:
        (B, T).
    """
    squares, counts = term.square().sum(-1), stats.completion_mask.sum(-1).float()
    if by == "batch":
        squares, counts = squares.sum(), counts.sum()
    elif by == "group":
        assert stats.group is not None
        squares, counts = (torch.zeros_like(x).index_add(0, stats.group, x)[stats.group] for x in (squares, counts))
    size = (squares / counts.clamp(min=1)).sqrt().clamp(min=1e-8)
    return term / (size if by == "batch" else size[:, None])


def mixed(stats: TokenStats, term: Tensor, mix: float, by: str) -> Tensor:
    """Return (1 - mix) A + mix term / rms; A alone for a completion whose term is 0 throughout.

    Args:
        stats: Of the batch.
        term: (B, T).
        mix: Share of the term.
        by: As for `scaled`.

    Returns:
        Token advantages (B, T).
    """
    term = torch.where(stats.completion_mask, term, torch.zeros_like(term))
    share = torch.where((term != 0).any(-1), mix, 0.0)[:, None]
    even = stats.advantages[:, None] * stats.completion_mask
    return (1 - share) * even + share * scaled(term, stats, by)


@credit_rule(reads=(), signed=True)
def scaled_even(stats: TokenStats) -> Tensor:
    """Return GRPO's advantages at a root mean square of 1 over the batch: a control for the scale of the others."""
    return scaled(stats.advantages[:, None] * stats.completion_mask, stats, "batch")


@credit_rule(reads=(), signed=True)
def decisions(stats: TokenStats, *, told: Told, mix: float, signed: bool, by: str = "batch") -> Tensor:
    """Return the advantage at the picks that decided; with `signed`, 1 where they were right and -1 where not."""
    term = told.causal if signed else (told.causal != 0) * stats.advantages[:, None]
    return mixed(stats, term, mix, by)


@credit_rule(reads=(), signed=True)
def value_changes(
    stats: TokenStats,
    *,
    told: Told,
    mix: float,
    decay: float = 0.0,
    logarithm: bool = False,
    spread: bool = False,
    by_entropy: bool = False,
    by: str = "batch",
) -> Tensor:
    """Return what each pick changed of the value; with a decay, generalised advantages of the stretches between picks.

    A_k = sum_j decay^j (V_{k + j + 1} - V_{k + j}), the last difference being that of the reward; without a decay the
    change stands at the pick alone. With `spread` at every token of the stretch that ends with the pick, as for one who
    does not know which of them it is; with `by_entropy` times the policy's entropy there.
    """
    assert told.values is not None
    assert told.segment is not None
    assert stats.rewards is not None
    values = told.values
    if decay:
        values = torch.cat([values, stats.rewards[:, None]], -1)
    if logarithm:
        values = values.clamp(min=1e-3).log()
    changes = values.diff(dim=-1)
    if decay:
        summed = torch.zeros_like(changes)
        latest = torch.zeros_like(changes[:, 0])
        for index in reversed(range(changes.shape[-1])):
            latest = changes[:, index] + decay * latest
            summed[:, index] = latest
        return mixed(stats, summed.gather(-1, told.segment), mix, by)
    num_picks = changes.shape[-1]
    is_pick = torch.cat([told.segment[:, 1:] != told.segment[:, :-1], torch.zeros_like(told.segment[:, :1])], -1) > 0
    where = told.segment < num_picks if spread else is_pick
    term = changes.gather(-1, told.segment.clamp(max=num_picks - 1)) * where
    return mixed(stats, term * stats.entropy if by_entropy else term, mix, by)


@credit_rule(reads=("ref_logps", "kl"), signed=True)
def drift(stats: TokenStats, *, mix: float, bound: float, by: str = "batch") -> Tensor:
    """Return the signed drift log pi - log pi_ref - KL, bounded, as an implicit value (VIMPO, arXiv:2606.20008)."""
    assert stats.ref_logps is not None
    assert stats.kl is not None
    term = (stats.logps - stats.ref_logps - stats.kl).clamp(-bound, bound)
    return mixed(stats, term, mix, by)


@credit_rule(reads=HINDSIGHT_STATS, signed=True)
def opinion(
    stats: TokenStats, *, mix: float = 0.3, clip: float = 2.0, by: str = "completion", gate: str = "d"
) -> Tensor:
    """Return the hint's term in other ways than the library's `hindsight`: no floor, other scales, no d."""
    assert stats.hindsight_log_ratio is not None
    assert stats.hindsight_hellinger_sq is not None
    term = stats.hindsight_log_ratio.clamp(-clip, clip)
    if gate == "d":
        term = term * stats.hindsight_hellinger_sq
    return mixed(stats, term, mix, by)


@credit_rule(reads=HINDSIGHT_STATS)
def distance_weights(stats: TokenStats, *, tau: float = 0.1) -> Tensor:
    """Return DGPO's weights with the distance of the hinted to the plain reference: the place of a decision alone."""
    assert stats.hindsight_hellinger_sq is not None
    return redistribution_weights(stats.hindsight_hellinger_sq, stats.completion_mask, tau=tau)


@credit_rule(reads=HINDSIGHT_STATS, signed=True)
def agreeing(stats: TokenStats, *, mix: float = 0.5, tau: float = 0.1) -> Tensor:
    """Return the advantage on the tokens of large d whose log-ratio has the advantage's sign, mixed with GRPO's."""
    assert stats.hindsight_log_ratio is not None
    advantages = stats.advantages[:, None]
    agrees = stats.hindsight_log_ratio.sign() * advantages.sign() >= 0
    return mixed(stats, distance_weights(stats, tau=tau) * advantages * agrees, mix, "batch")
