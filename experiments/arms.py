"""The arms of a comparison: a credit rule with its options, and what else a training does differently."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from dgpo.rules import CreditRule, resolve
from experiments.digests import digest


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        rule: Whatever `dgpo.rules.resolve` takes: a built-in name, an import path, or a function of the experiment.
        options: Of the rule; the others keep their defaults.
        label: In tables and figures.
        beta: Factor of a KL penalty in the loss.
    """

    rule: str | Callable[..., Tensor] = "even"
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    beta: float = 0.0

    @cached_property
    def credit_rule(self) -> CreditRule:
        """The rule, ready for `dgpo.assign_credit`."""
        return resolve(self.rule, **self.options)

    @property
    def signed(self) -> bool:
        """Whether the rule gives token advantages in place of weights."""
        return self.credit_rule.traits.signed

    def digest(self) -> str:
        """Return a digest of what the arm does: the rule's code, traits and options, and the penalty."""
        rule = self.credit_rule
        return digest([rule.function, rule.traits, dict(sorted(rule.options.items())), self.beta])
