"""What a credit rule says of itself; known without torch, which takes seconds to load."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dgpo.core.token_stats import HINDSIGHT_STATS, REFERENCE_STATS

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class RuleTraits:
    """What an engine must know of a rule before it runs.

    Attributes:
        reads: Statistics that cost extra and that the rule reads, of `REFERENCE_STATS`. Without any, no reference is
            built. A rule that is not marked is taken to read `hellinger_sq` and `ref_logps`.
        signed: Whether it gives token advantages in place of weights that multiply the completion's advantage.
        whole_groups: Whether it must see all completions of a prompt at once.
        mean_one: Whether its weights have mean 1 over the trained tokens of each completion, which is then checked.
        batch_wide: Whether a completion's weights depend on the other completions of the batch, so that it must see
            those whose advantage is 0 as well, which an engine leaves out otherwise. `dgpo.rules.resolve` tries a rule
            that is not marked.
    """

    reads: tuple[str, ...] = ("hellinger_sq", "ref_logps")
    signed: bool = False
    whole_groups: bool = False
    mean_one: bool = True
    batch_wide: bool = False

    @property
    def needs_reference(self) -> bool:
        """Whether a reference must be scored."""
        return bool(self.reads)

    @property
    def per_completion(self) -> bool:
        """Whether each completion has weights of its own, which multiply its advantage."""
        return not (self.signed or self.whole_groups or self.batch_wide)

    @property
    def needs_hint(self) -> bool:
        """Whether the reference must also be scored with a hint."""
        return bool(set(self.reads) & set(HINDSIGHT_STATS))


def credit_rule(
    *,
    reads: tuple[str, ...] = RuleTraits.reads,
    signed: bool = False,
    whole_groups: bool = False,
    mean_one: bool = True,
    batch_wide: bool = False,
) -> Callable[[_Function], _Function]:
    """Mark a rule with what an engine must know of it; the function itself stays as it is.

    Args:
        reads: Which statistics of `REFERENCE_STATS` it reads.
        signed: It gives token advantages in place of weights.
        whole_groups: It must see all completions of a prompt at once.
        mean_one: Its weights have mean 1 over each completion.
        batch_wide: A completion's weights depend on the other completions of the batch.

    Returns:
        A decorator.

    Raises:
        ValueError: If `reads` names something else.

    Example:
        >>> @credit_rule(reads=())
        ... def last_token(stats, *, share=0.5):
        ...     mask = stats.completion_mask.float()
        ...     last = mask * (mask.cumsum(-1) == mask.sum(-1, keepdim=True)) * mask.sum(-1, keepdim=True)
        ...     return (1 - share) * mask + share * last
        >>> traits_of(last_token).needs_reference
        False
    """
    for name in reads:
        if name not in REFERENCE_STATS:
            raise ValueError(
                f"reads={name!r} is not a statistic that costs extra; there are {', '.join(REFERENCE_STATS)}. All other"
                " fields of TokenStats are always there, hint_agreement where one of the hindsight_ ones is read."
            )
    traits = RuleTraits(tuple(reads), signed, whole_groups, mean_one, batch_wide)

    def mark(function: _Function) -> _Function:
        function.traits = traits  # type: ignore[attr-defined]
        return function

    return mark


def traits_of(rule: Callable[..., Any]) -> RuleTraits:
    """Return what a rule is marked with, or the traits of a rule that is not marked."""
    traits = getattr(rule, "traits", None)
    return traits if isinstance(traits, RuleTraits) else RuleTraits()
