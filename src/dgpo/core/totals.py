"""What the redistribution did: how concentrated the credit is, and whether it did anything at all."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dgpo.core.checks import check_mask
from dgpo.tensor_types import Bool, Float, Tensor

INERT_WITHIN = 0.01
"""Weights that all lie within this distance of 1 change nothing that a training curve could show."""

# Distances are counted in a logarithmic histogram: 2 % resolution from 1e-10 to 1, in bounded memory, and it adds up
# over micro-batches and ranks, which a quantile does not.
_DECADES, _BINS_PER_DECADE = 10, 116
_NUM_BINS = _DECADES * _BINS_PER_DECADE + 1


@dataclass(frozen=True)
class CreditStats:
    """Summary of a set of redistribution weights; every figure is a plain number.

    Attributes:
        num_tokens: Trained tokens counted.
        num_completions: Completions with at least one trained token.
        effective_share: Mean over completions of ESS / T, ESS = (sum w)^2 / sum w^2: 1 when the credit is even, 1/T
            when a single token holds all of it, 0 when none holds any (a rule may leave a completion out). 1 when
            nothing was counted.
        weight_std: Standard deviation of the weights over the tokens.
        weight_min: Smallest weight of a trained token.
        weight_max: Largest weight.
        score_mean: Mean of the gated scores over the tokens; nan without a reference.
        score_max: Largest gated score.
        inert: True when every weight lies within 0.01 of 1, so that this was GRPO for all practical purposes.
            Always False for a signed rule.
    """

    num_tokens: int
    num_completions: int
    effective_share: float
    weight_std: float
    weight_min: float
    weight_max: float
    score_mean: float
    score_max: float
    inert: bool

    def __str__(self) -> str:
        verdict = "inert: this is GRPO" if self.inert else "credit is redistributed"
        return (
            f"{self.num_tokens} tokens in {self.num_completions} completions: effective share"
            f" {self.effective_share:.3f}, weights {self.weight_min:.4f} to {self.weight_max:.4f}"
            f" (std {self.weight_std:.4f}), scores up to {self.score_max:.3g}; {verdict}"
        )


_SUMS = (
    "tokens",
    "completions",
    "effective_share",
    "weight",
    "weight_deviation_sq",
    "score",
    "hellinger_sq",
    "entropy_gate",
    "kl",
)
_MAXIMA = ("weight", "minus_weight", "score", "hellinger_sq")


@dataclass(frozen=True)
class CreditTotals:
    """Sums and extremes of per-token statistics that can be added over micro-batches and reduced over ranks.

    Added over any split of the completions they give what one call on all of them gives; a mean of means does not.

    Attributes:
        sums: (S,) float64: numbers of tokens and completions, then sums over them.
        maxima: (M,) float64: largest values; -inf where nothing was counted.
        histogram: (bins,) float64: counts of distances in logarithmic bins.
        signed: Whether token advantages were counted in place of weights.
        mean_one: Whether the weights have mean 1 by their rule, so that the metrics need not say so.
    """

    sums: Tensor
    maxima: Tensor
    histogram: Tensor
    signed: bool = False
    mean_one: bool = True

    @classmethod
    def zeros(cls, device: torch.device | str = "cpu") -> "CreditTotals":
        """Return the totals of no tokens."""
        return cls(
            sums=torch.zeros(len(_SUMS), dtype=torch.float64, device=device),
            maxima=torch.full((len(_MAXIMA),), -torch.inf, dtype=torch.float64, device=device),
            histogram=torch.zeros(_NUM_BINS, dtype=torch.float64, device=device),
        )

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        weights: Float[Tensor, "B T"],
        scores: Float[Tensor, "B T"] | None,
        completion_mask: Bool[Tensor, "B T"],
        *,
        hellinger_sq: Float[Tensor, "B T"] | None = None,
        entropy_gate: Float[Tensor, "B T"] | None = None,
        kl: Float[Tensor, "B T"] | None = None,
        signed: bool = False,
        mean_one: bool = True,
    ) -> "CreditTotals":
        """Return the totals of one batch.

        Args:
            weights: w of `redistribution_weights`, or the token advantages of a signed rule.
            scores: s of `gated_scores`; their figures are nan without them.
            completion_mask: True where a token is trained; other slots are not read.
            hellinger_sq: d; its figures are nan without it, and not among the metrics.
            entropy_gate: h ** kappa; likewise.
            kl: An estimate of the divergence from the reference per token; its mean is nan without it.
            signed: Whether `weights` are token advantages.
            mean_one: Whether the rule's weights have mean 1; their mean is a metric where it need not be 1.

        Returns:
            Totals on the device of `weights`.

        Raises:
            ValueError: If a shape does not fit.
        """
        per_token = {
            "weights": weights,
            "scores": scores,
            "hellinger_sq": hellinger_sq,
            "entropy_gate": entropy_gate,
            "kl": kl,
        }
        for name, values in per_token.items():
            if values is not None:
                check_mask(name, values, completion_mask)
        missing = torch.full_like(weights[completion_mask], torch.nan, dtype=torch.float64)
        w, s, d, gate, kl_of_tokens = (
            missing if x is None else x[completion_mask].double() for x in per_token.values()
        )
        share, num_completions = _effective_shares(weights, completion_mask)
        sums = [torch.tensor(float(w.numel()), dtype=torch.float64, device=w.device), num_completions, share]
        sums += [x.sum() for x in (w, (w - 1).square(), s, d, gate, kl_of_tokens)]
        nothing = w.new_full((1,), -torch.inf)
        maxima = [torch.cat([x, nothing]).amax() for x in (w, -w, s, d)]
        bins = _bin_of(d) if hellinger_sq is not None else d.new_zeros(0, dtype=torch.long)
        histogram = torch.bincount(bins, minlength=_NUM_BINS).double()
        return cls(torch.stack(sums), torch.stack(maxima), histogram, signed, mean_one)

    def __add__(self, other: "CreditTotals") -> "CreditTotals":
        return CreditTotals(
            self.sums + other.sums,
            torch.maximum(self.maxima, other.maxima),
            self.histogram + other.histogram,
            self.signed,
            self.mean_one,
        )

    def reduced(self, reduce_sum: Callable[[Tensor], Tensor], reduce_max: Callable[[Tensor], Tensor]) -> "CreditTotals":
        """Return the totals of all ranks, by two collective calls.

        Args:
            reduce_sum: Gives the elementwise sum of a (n,) tensor over the ranks.
            reduce_max: Gives the elementwise maximum of a (n,) tensor over the ranks.

        Returns:
            The same on every rank.
        """
        sums, histogram = reduce_sum(torch.cat([self.sums, self.histogram])).split([len(_SUMS), _NUM_BINS])
        return CreditTotals(sums, reduce_max(self.maxima), histogram, self.signed, self.mean_one)

    def mean_kl(self) -> float:
        """Return the mean of the divergence estimates over the tokens."""
        return self._mean("kl")

    def _mean(self, name: str) -> float:
        count = self._sum("completions" if name == "effective_share" else "tokens")
        return self._sum(name) / count if count else math.nan

    def _sum(self, name: str) -> float:
        return float(self.sums[_SUMS.index(name)])

    def _max(self, name: str) -> float:
        return float(self.maxima[_MAXIMA.index(name)])

    def hellinger_quantile(self, q: float) -> float:
        """Return the q-quantile of the distances: the upper edge of its bin, 2 % above the true value at most."""
        cumulated = self.histogram.cumsum(0)
        if not cumulated[-1] > 0:
            return math.nan
        index = int(torch.searchsorted(cumulated, cumulated[-1:] * q))
        edge = 0.0 if index == 0 else 10.0 ** (index / _BINS_PER_DECADE - _DECADES)
        return min(edge, self._max("hellinger_sq"))

    def metrics(self) -> dict[str, float]:
        """Return the figures that are logged while training, under their names in every engine.

        Without a reference there are no distances; of a signed rule, the effective share is that of |Ahat|.
        """
        metrics = {}
        if self.has_reference:
            metrics = {
                "dgpo/hellinger_sq/mean": self._mean("hellinger_sq"),
                "dgpo/hellinger_sq/p99": self.hellinger_quantile(0.99),
                "dgpo/hellinger_sq/max": self._max("hellinger_sq"),
                "dgpo/entropy_gate/mean": self._mean("entropy_gate"),
            }
        if self.signed:
            metrics["dgpo/token_advantage/mean"] = self._mean("weight")
            metrics["dgpo/token_advantage/max"] = self._max("weight")
            metrics["dgpo/token_advantage/min"] = -self._max("minus_weight")
        else:
            if not self.mean_one:
                metrics["dgpo/weight/mean"] = self._mean("weight")
            metrics["dgpo/weight/std"] = math.sqrt(self._weight_variance())
            metrics["dgpo/weight/max"] = self._max("weight")
        metrics["dgpo/effective_share"] = self._mean("effective_share")
        return metrics

    @property
    def has_reference(self) -> bool:
        """Whether distances from a reference were counted."""
        return not math.isnan(self._sum("hellinger_sq"))

    def _weight_variance(self) -> float:
        """About 1, and for weights of another mean about that mean."""
        deviation_sq = self._mean("weight_deviation_sq")
        return deviation_sq if self.mean_one else max(0.0, deviation_sq - (self._mean("weight") - 1) ** 2)

    def stats(self) -> CreditStats:
        """Return the summary of the weights."""
        if not self._sum("tokens"):
            return CreditStats(0, 0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, True)
        low, high = -self._max("minus_weight"), self._max("weight")
        return CreditStats(
            num_tokens=int(self._sum("tokens")),
            num_completions=int(self._sum("completions")),
            effective_share=self._mean("effective_share"),
            weight_std=math.sqrt(self._weight_variance()),
            weight_min=low,
            weight_max=high,
            score_mean=self._mean("score"),
            score_max=self._max("score"),
            inert=not self.signed and max(high - 1, 1 - low) <= INERT_WITHIN,
        )


def credit_stats(
    weights: Float[Tensor, "B T"],
    scores: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
) -> CreditStats:
    """Return how concentrated a redistribution is, and whether it did anything.

    Args:
        weights: w of `redistribution_weights`, mean 1 over each row's mask.
        scores: s of `gated_scores`.
        completion_mask: True where a token is trained; what stands in other slots is not read.

    Returns:
        Plain numbers; see `CreditStats`. No gradient.

    Raises:
        ValueError: If the shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> weights, mask = torch.tensor([[0.5, 1.5]]), torch.tensor([[True, True]])
        >>> stats = credit_stats(weights, torch.tensor([[0.0, 0.1]]), mask)
        >>> stats.effective_share    # (0.5 + 1.5)^2 / (0.25 + 2.25) / 2
        0.8
        >>> stats.inert
        False
    """
    return CreditTotals.of(weights, scores, completion_mask).stats()


def _effective_shares(weights: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ESS / T over the completions with a trained token, and their number."""
    # Of token advantages, the share of their sizes.
    sizes = torch.where(completion_mask, weights, torch.zeros_like(weights)).double().abs()
    num_tokens = completion_mask.sum(-1).double()
    trained = num_tokens > 0
    # The floor keeps 0 / 0 away from a completion whose weights are all 0.
    tiny = torch.finfo(sizes.dtype).tiny
    ess = sizes.sum(-1)[trained].square() / sizes.square().sum(-1)[trained].clamp(min=tiny)
    return (ess / num_tokens[trained]).sum(), trained.sum().double()


def _bin_of(d: Tensor) -> Tensor:
    """Index of each distance: 0 for 1e-10 and below, then bins whose upper edge is 10^(index / 116 - 10)."""
    index = ((d.clamp(min=1e-300).log10() + _DECADES) * _BINS_PER_DECADE).ceil()
    return index.nan_to_num(0.0).clamp(0, _NUM_BINS - 1).long()
