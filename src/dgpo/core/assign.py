"""From statistics to credit: the one path for every engine, `dgpo inspect`, the credit log and the experiments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dgpo.core.checks import check_mask
from dgpo.core.credit import entropy_gate, gated_scores, redistribute
from dgpo.core.rule_traits import RuleTraits, traits_of
from dgpo.core.token_stats import REFERENCE_STATS, TokenStats
from dgpo.core.totals import CreditTotals
from dgpo.tensor_types import Tensor

RuleResult = Tensor | tuple[Tensor, Mapping[str, Tensor]]
"""Weights (B, T), or token advantages of a signed rule; or a pair of them and columns (B, T) by name for the log."""

Rule = Callable[[TokenStats], RuleResult]
"""A credit rule whose options are set."""

_MEAN_WITHIN = 1e-3

RESERVED_COLUMNS = (
    *("weights", "token_advantages", "scores", "hellinger_sq", "entropy", "logps", "ref_logps"),
    "sampling_log_ratio",
)
"""Names that a rule cannot give to a column of its own: the log has numbers of these names."""


@dataclass(frozen=True)
class Credit:
    """The credit of one batch. No gradient.

    Attributes:
        token_advantages: (B, T) float, what takes the place of A in the loss; 0 off the mask.
        weights: (B, T) float, w, 0 off the mask; None for a signed rule.
        scores: (B, T) float, d h^kappa with the rule's kappa (1 where it has none); None without a reference.
        totals: For metrics; add them over micro-batches and ranks.
        columns: (B, T) float by name, what the rule gave beside the weights for the credit log; 0 off the mask.
    """

    token_advantages: Tensor
    weights: Tensor | None
    scores: Tensor | None
    totals: CreditTotals
    columns: Mapping[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def assign_credit(stats: TokenStats, rule: Rule) -> Credit:
    """Return the advantage of every token, as a rule redistributes the advantage of its completion.

    Ahat_it = A_i w_it (arXiv:2605.03327; equation 6 of `docs/equations.md`), w from the rule; a signed rule gives
    Ahat_it itself. A rule may return a pair: the weights, and a mapping of names to further numbers a token, which the
    credit log holds as columns and nothing else reads.

    Args:
        stats: The statistics of a batch.
        rule: A function of `TokenStats`; `dgpo.rules.resolve` gives one by name and options.

    Returns:
        The credit, on the device of the statistics.

    Raises:
        ValueError: If a statistic does not fit the mask, the rule reads one that was not computed, or what it returns
            is no tensor of the mask's shape, not finite on the mask, or of another mean than 1 where the rule is not
            marked with `mean_one=False`; or a column of it is none of the mask's shape, not finite on the mask, or has
            the name of something that the log holds already.

    Example:
        >>> from dgpo.core import credit_rule
        >>> stats = TokenStats(
        ...     completion_mask=torch.tensor([[True, True]]),
        ...     advantages=torch.tensor([2.0]),
        ...     entropy=torch.zeros(1, 2),
        ...     logps=torch.zeros(1, 2),
        ...     old_logps=torch.zeros(1, 2),
        ...     vocab_size=4,
        ... )
        >>> assign_credit(stats, credit_rule(reads=())(lambda stats: torch.tensor([[0.5, 1.5]]))).token_advantages
        tensor([[1., 3.]])
    """
    mask, traits = stats.completion_mask, traits_of(rule)
    per_token = {name: getattr(stats, name) for name in ("entropy", "logps", "old_logps", *REFERENCE_STATS)}
    for name, values in per_token.items():
        if values is not None:
            check_mask(name, values, mask)
    if traits.whole_groups and stats.group is None:
        raise ValueError(
            f"The credit rule {_name_of(rule)} compares the completions of a prompt, and TokenStats.group is None. Pass"
            " the prompt's number of each completion, (B,) int64."
        )
    given, columns = _parts(_call(rule, stats), mask, _name_of(rule))
    _check_shape(given, mask, traits, _name_of(rule))
    given = torch.where(mask, given, torch.zeros_like(given))
    token_advantages = given if traits.signed else redistribute(stats.advantages, given)
    _check_numbers(given, token_advantages, mask, traits, _name_of(rule))
    gate = scores = kl = None
    if stats.hellinger_sq is not None:
        kappa = float(_options_of(rule).get("kappa", 1.0))
        gate = entropy_gate(stats.entropy, vocab_size=stats.vocab_size, kappa=kappa)
        scores = gated_scores(stats.hellinger_sq, stats.entropy, vocab_size=stats.vocab_size, kappa=kappa)
    if stats.ref_logps is not None:
        log_ratio = stats.ref_logps - stats.logps
        kl = log_ratio.exp() - log_ratio - 1
    totals = CreditTotals.of(
        given,
        scores,
        mask,
        hellinger_sq=stats.hellinger_sq,
        entropy_gate=gate,
        kl=kl,
        signed=traits.signed,
        mean_one=traits.mean_one,
    )
    if traits.signed:
        return Credit(token_advantages, None, scores, totals, columns)
    return Credit(token_advantages, given, scores, totals, columns)


def _call(rule: Rule, stats: TokenStats) -> Any:
    try:
        return rule(stats)
    except (TypeError, AttributeError) as error:
        absent = [name for name in REFERENCE_STATS if getattr(stats, name) is None]
        if not any(name in str(error) for name in (*absent, "NoneType")):
            raise
        raise ValueError(
            f"The credit rule {_name_of(rule)} failed where {', '.join(absent)} of TokenStats were not computed:"
            f" {error}. It says that it reads {', '.join(traits_of(rule).reads) or 'none of them'}; name what it reads"
            " in @credit_rule(reads=(...))."
        ) from error


def _parts(given: Any, mask: Tensor, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Weights, and the columns that the rule returned beside them, 0 off the mask."""
    if not isinstance(given, tuple):
        return given, {}
    if len(given) != 2 or not isinstance(given[1], Mapping):
        kinds = ", ".join(type(part).__name__ for part in given)
        raise ValueError(
            f"The credit rule {name} returned a tuple of ({kinds}); return the weights alone, or the pair"
            ' (weights, {"name": column}).'
        )
    columns = {}
    for key, column in given[1].items():
        what = f"Column {key!r} of the credit rule {name}"
        if not isinstance(key, str) or not key or key in RESERVED_COLUMNS:
            raise ValueError(
                f"{what} needs another name: a text that is none of {', '.join(RESERVED_COLUMNS)}, which are in the log"
                " already."
            )
        if not isinstance(column, Tensor) or column.is_complex() or column.shape != mask.shape:
            kind = f"shape {tuple(column.shape)}" if isinstance(column, Tensor) else f"type {type(column).__name__}"
            raise ValueError(f"{what} has {kind}; it must be a tensor of {tuple(mask.shape)}, one number a token.")
        columns[key] = torch.where(mask, column.detach().float(), 0.0)
        if not bool(torch.isfinite(columns[key]).all()):
            raise ValueError(f"{what} is not finite (nan or inf) for a trained token; give 0 where it has no value.")
    return given[0], columns


def _check_shape(given: Any, mask: Tensor, traits: RuleTraits, name: str) -> None:
    what = "token advantages" if traits.signed else "weights"
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = f"{given.dtype} tensor" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"The credit rule {name} returned a {kind}; it must return {what} (B, T) of a float dtype.")
    if given.shape != mask.shape:
        raise ValueError(
            f"The credit rule {name} returned shape {tuple(given.shape)} for completions of {tuple(mask.shape)};"
            f" {what} are one number a token, and nothing is broadcast."
        )


def _check_numbers(given: Tensor, token_advantages: Tensor, mask: Tensor, traits: RuleTraits, name: str) -> None:
    what = "token advantages" if traits.signed else "weights"
    inside, counts = given.double(), mask.sum(-1)
    off = (inside.sum(-1) / counts.clamp(min=1) - 1).abs() * (counts > 0)
    worst_off = off.amax() if len(off) else off.new_zeros(())
    bad, bad_products = ((~torch.isfinite(values)).sum().double() for values in (inside, token_advantages))
    num_bad, num_bad_products, worst = torch.stack([bad, bad_products, worst_off]).tolist()  # one wait for the device
    if num_bad:
        raise ValueError(
            f"{what} of {int(num_bad)} trained tokens are not finite (nan or inf) as the credit rule {name} gives them."
        )
    if num_bad_products:
        raise ValueError(
            f"token advantages of {int(num_bad_products)} trained tokens are not finite (nan or inf), though the"
            f" weights of the credit rule {name} are: an advantage is not, or its product with a weight is too large."
        )
    if traits.mean_one and not traits.signed and worst > _MEAN_WITHIN:
        row = int(off.argmax())
        raise ValueError(
            f"weights of completion {row} have mean {float(inside[row].sum() / counts[row]):.4g} over its"
            f" {int(counts[row])} trained tokens, so the credit rule {name} would rescale the loss. Divide them by"
            " their mean, or mark the rule with @credit_rule(mean_one=False)."
        )


def _options_of(rule: Rule) -> dict[str, Any]:
    return getattr(rule, "options", {})


def _name_of(rule: Rule) -> str:
    return str(getattr(rule, "name", None) or getattr(rule, "__name__", None) or rule)
