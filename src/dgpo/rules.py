"""Credit rules by name: plain functions from `TokenStats` to weights, and `resolve`, which finds them.

A rule of your own is the same kind of function, named by its import path: see `examples/custom_rule.py`. Names, options
and traits of the built-in ones are known without torch: `core` loads an equation when it is first used.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dgpo import core
from dgpo.core import RuleTraits, TokenStats, credit_rule, traits_of
from dgpo.core.numbers import check_not_negative, check_positive
from dgpo.core.token_stats import HINDSIGHT_STATS
from dgpo.errors import ConfigError
from dgpo.names import did_you_mean, import_function
from dgpo.secrets import hide_secrets

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo.core import RuleResult

__all__ = ["BUILT_IN", "CreditRule", "credit_rule", "resolve"]


def _scores(stats: TokenStats, kappa: float) -> Tensor:
    assert stats.hellinger_sq is not None
    return core.gated_scores(stats.hellinger_sq, stats.entropy, vocab_size=stats.vocab_size, kappa=kappa)


@credit_rule(reads=("hellinger_sq",))
def dgpo(stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0) -> Tensor:
    """Return the paper's weights: a softmax of s = d h^kappa (arXiv:2605.03327)."""
    return core.redistribution_weights(_scores(stats, kappa), stats.completion_mask, tau=tau)


@credit_rule(reads=())
def even(stats: TokenStats) -> Tensor:
    """Return weights of 1, which is GRPO, and needs no reference."""
    return stats.completion_mask.float()


@credit_rule(reads=())
def entropy(stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0) -> Tensor:
    """Return a softmax of the normalised entropy alone, as if d were 1 everywhere."""
    ones = stats.entropy.new_ones(stats.entropy.shape)
    scores = core.gated_scores(ones, stats.entropy, vocab_size=stats.vocab_size, kappa=kappa)
    return core.redistribution_weights(scores, stats.completion_mask, tau=tau)


@credit_rule(reads=("hellinger_sq",))
def inverse(stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0) -> Tensor:
    """Return a softmax of -s: less credit where the policy has moved away from its reference."""
    return core.redistribution_weights(-_scores(stats, kappa), stats.completion_mask, tau=tau)


@credit_rule(reads=("hellinger_sq",))
def capped(stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0, cap: float = 2.0) -> Tensor:
    """Return the paper's weights with a largest one; what is cut off is spread evenly."""
    return core.capped_weights(dgpo(stats, tau=tau, kappa=kappa), stats.completion_mask, cap=cap)


@credit_rule(reads=("hellinger_sq",))
def floored(stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0, floor: float = 0.5) -> Tensor:
    """Return the paper's weights mixed with even ones, floor + (1 - floor) w, so that no token is starved."""
    return core.floored_weights(dgpo(stats, tau=tau, kappa=kappa), stats.completion_mask, floor=floor)


@credit_rule(reads=("hellinger_sq",))
def one_sided(
    stats: TokenStats, *, tau: float = 0.5, kappa: float = 1.0, sign: Literal["positive", "negative"] = "positive"
) -> Tensor:
    """Return the paper's weights for completions whose advantage has this sign, and 1 for the others."""
    if sign not in ("positive", "negative"):
        raise ValueError(f"sign is {sign!r}; it is 'positive' or 'negative', the sign of the advantage.")
    weights = dgpo(stats, tau=tau, kappa=kappa)
    return core.one_sided_weights(weights, stats.completion_mask, stats.advantages, positive=sign == "positive")


@credit_rule(reads=("hellinger_sq",), batch_wide=True)
def effective_share(stats: TokenStats, *, share: float = 0.8, kappa: float = 1.0) -> Tensor:
    """Return the paper's weights at the tau for which this share of the batch's tokens holds the credit (ESS / T)."""
    return core.effective_share_weights(_scores(stats, kappa), stats.completion_mask, effective_share=share)


@credit_rule(reads=(), mean_one=False, batch_wide=True)
def top_entropy(stats: TokenStats, *, fraction: float = 0.2) -> Tensor:
    """Return 1 for the batch's most uncertain tokens and 0 for the others ("80/20", arXiv:2506.01939)."""
    return core.top_entropy_weights(stats.entropy, stats.completion_mask, fraction=fraction)


@credit_rule(reads=(), mean_one=False, whole_groups=True)
def gtpo(stats: TokenStats, *, bonus: float = 0.5) -> Tensor:
    """Return entropy shares over the completions of a prompt at the same position (after GTPO, arXiv:2508.04349)."""
    assert stats.group is not None
    mask, advantages = stats.completion_mask, stats.advantages
    return core.group_entropy_weights(stats.entropy, mask, advantages, group=stats.group, bonus=bonus)


@credit_rule(reads=(), mean_one=False)
def fipo(stats: TokenStats, *, gamma: float = 0.95, low: float = 0.8, high: float = 1.2) -> Tensor:
    """Return weights from the policy's change over all later tokens (FIPO, arXiv:2603.19835); 1 at the first update."""
    return core.future_kl_weights(stats.logps, stats.old_logps, stats.completion_mask, gamma=gamma, low=low, high=high)


@credit_rule(reads=HINDSIGHT_STATS, signed=True)
def hindsight(
    stats: TokenStats, *, mix: float = 0.3, clip: float = 2.0, floor: float = 0.02, min_agreement: float = 0.5
) -> Tensor:
    """Return the group advantage mixed with what a hint to the answer says of each token; GRPO where there is none."""
    log_ratio, distance = stats.hindsight_log_ratio, stats.hindsight_hellinger_sq
    assert log_ratio is not None
    assert distance is not None
    given = (stats.advantages, log_ratio, distance, stats.completion_mask, stats.hint_agreement)
    return core.hindsight_advantages(*given, mix=mix, clip=clip, floor=floor, min_agreement=min_agreement)


BUILT_IN: dict[str, Callable[..., Tensor]] = {
    rule.__name__: rule
    for rule in (
        *(dgpo, even, entropy, inverse, capped, floored, one_sided, effective_share),
        *(top_entropy, gtpo, fipo, hindsight),
    )
}
"""The rules that have a name of their own; every other one is named by its import path."""


@dataclass(frozen=True)
class CreditRule:
    """A rule with its options, ready to be called on `TokenStats`.

    Attributes:
        name: How it was named.
        function: The plain function.
        options: Its keyword arguments, defaults included.
        source: SHA-256 digest (12 hex digits) of the file that defines it, `""` where there is no file.
        batch_wide: Whether it was seen to give a completion other weights where other completions were left out.
    """

    name: str
    function: Callable[..., RuleResult]
    options: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    batch_wide: bool = False

    @property
    def traits(self) -> RuleTraits:
        """What an engine must know before the rule runs."""
        traits = traits_of(self.function)
        return replace(traits, batch_wide=True) if self.batch_wide else traits

    def __call__(self, stats: TokenStats) -> RuleResult:
        """Return what the function gives for these statistics."""
        return self.function(stats, **self.options)

    def describe(self) -> dict[str, Any]:
        """Return name, options and source for records of a run; values of options are plain data."""
        return {"rule": self.name, "options": hide_secrets(dict(self.options)), "source": self.source}

    def __str__(self) -> str:
        options = hide_secrets(self.options)
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"


def resolve(rule: str | Callable[..., RuleResult] | CreditRule, /, **options: Any) -> CreditRule:
    """Return the rule of a name with its options, tried once on a small batch of made-up statistics.

    A built-in rule whose options are its defaults, tau and kappa aside, needs no trial, and no torch.

    Args:
        rule: A name of `BUILT_IN`, an import path `"my_package.rules:capped"`, a file `"my_rules.py:capped"`, relative
            to the working directory, or a function.
        **options: Keyword arguments of the rule; the others keep their defaults.

    Returns:
        A callable that gives weights, or token advantages where the rule is marked as signed; with columns for the log
        where the rule returns them.

    Raises:
        ConfigError: If there is no such rule (with the nearest name), it has no such option (with the valid ones), an
            option has no value, or the rule does not work on the made-up batch.

    Example:
        >>> str(resolve("capped", cap=3.0))
        'capped(tau=0.5, kappa=1.0, cap=3.0)'
        >>> resolve("capt")
        Traceback (most recent call last):
        dgpo.errors.ConfigError: There is no credit rule 'capt'. Did you mean 'capped'? Rules: dgpo, even, ...
    """
    if isinstance(rule, str):
        name, function = rule, _function_of(rule)
    elif isinstance(rule, CreditRule):
        name, function, options = rule.name, rule.function, {**rule.options, **options}
    else:
        name, function = getattr(rule, "__name__", type(rule).__name__), rule
    resolved = CreditRule(name, function, _checked_options(name, function, options), _source_of(function))
    return replace(resolved, batch_wide=resolved.traits.batch_wide if _is_proven(resolved) else _try(resolved))


def _function_of(name: str) -> Callable[..., RuleResult]:
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        file = f" Name the function in it: {name}:function." if name.endswith(".py") else ""
        hint = file or did_you_mean(name, BUILT_IN)
        raise ConfigError(
            f"There is no credit rule {name!r}.{hint} Rules: {', '.join(BUILT_IN)}; or one of"
            " your own as 'module:function' or 'file.py:function'."
        )
    function: Callable[..., RuleResult] = import_function(name)
    return function


def _checked_options(name: str, function: Callable[..., RuleResult], options: dict[str, Any]) -> dict[str, Any]:
    """The rule's keyword arguments with their defaults, and those that were given."""
    first, *parameters = inspect.signature(function).parameters.values() or (None,)
    if first is None:
        raise ConfigError(f"The credit rule {name} takes no arguments; it must take the statistics: def rule(stats).")
    named = {item.name: item for item in parameters if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)}
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters)
    for option in options:
        if option not in named and not takes_any:
            valid = f"Its options are {', '.join(named)}." if named else "It has none."
            raise ConfigError(f"The credit rule {name} has no option {option!r}.{did_you_mean(option, named)} {valid}")
    values = {key: item.default for key, item in named.items() if item.default is not item.empty} | options
    absent = [key for key in named if key not in values]
    if absent:
        raise ConfigError(f"The credit rule {name} needs a value for {', '.join(absent)}; give it among its options.")
    return values


def _source_of(function: Callable[..., RuleResult]) -> str:
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else ""
    except (OSError, TypeError):
        return ""


def _is_proven(rule: CreditRule) -> bool:
    """Return whether this is a built-in rule with its own defaults, tau and kappa aside: the tests try all of those.

    The trial loads torch, which takes seconds.
    """
    if BUILT_IN.get(rule.name) is not rule.function:
        return False
    try:
        for name, check in (("tau", check_positive), ("kappa", check_not_negative)):
            if name in rule.options:
                check(name, rule.options[name], "")
    except ValueError:
        return False  # the trial says why
    defaults = {item.name: item.default for item in inspect.signature(rule.function).parameters.values()}
    return all(value is defaults[name] for name, value in rule.options.items() if name not in ("tau", "kappa"))


def _try(rule: CreditRule) -> bool:
    """Try the rule on two prompts of two completions; return whether it compares them.

    What is wrong shows before a model is loaded. A rule compares completions if a completion's weights change where
    others are left out.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    values = torch.rand(4, 5, generator=random)
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 1])[:, None]
    stats = TokenStats(
        completion_mask=mask,
        advantages=torch.tensor([1.0, -1.0, 0.5, -0.5]),
        entropy=values,
        logps=-values - 0.1,
        old_logps=-values,
        vocab_size=8,
        rewards=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        group=torch.tensor([0, 0, 1, 1]),
        hint_agreement=torch.tensor([1.0, 1.0, 0.25, 0.25]) if rule.traits.needs_hint else None,
        **dict.fromkeys(rule.traits.reads, values.flip(0) / 2),
    )
    try:
        credit = core.assign_credit(stats, rule)
    except Exception as error:  # whatever a rule of somebody's raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"The credit rule {rule} does not work: {kind}{error}") from error
    if not rule.traits.per_completion:
        return rule.traits.batch_wide
    rows = [0, 2]
    some: dict[str, Any] = {name: x[rows] if isinstance(x, torch.Tensor) else x for name, x in stats._asdict().items()}
    try:
        return not torch.allclose(
            core.assign_credit(TokenStats(**some), rule).token_advantages, credit.token_advantages[rows]
        )
    except Exception:  # it works on all rows, and not on some of them
        return True
