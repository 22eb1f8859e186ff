"""How an arm of this experiment trains: its start, what its rule is told, and how its completions are sampled."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from dgpo.rules import CreditRule
from experiments.arms import Arm
from experiments.digests import digest
from experiments.hindsight.knowing import Told
from experiments.hindsight.starts import Start

PLAIN, HINTED, INTERRUPTED = Start(), Start("hinted"), Start("interrupted")
ANYWHERE = Start("interrupted anywhere")


@dataclass(frozen=True)
class Hint:
    """Who is shown what.

    Attributes:
        source: `"gold"`: the answer, for every completion. `"peer"`: a right sibling's picks, where there is one.
        wrong: Share of the prompts whose hint is wrong in every pick, as where a data set's answers are.
        random: Every pick of a hint is right half of the time: no hint is true.
        refresh_every: Rollouts after which the policy becomes the hinted reference; 0: it stays the initial one.
        control: What the hinted reference is compared with: `"none"`, an empty slot; `"wrong"`, the answer in which
            every pick is wrong; `"other"`, the hint of another prompt.
    """

    source: Literal["gold", "peer"] = "gold"
    wrong: float = 0.0
    random: bool = False
    refresh_every: int = 0
    control: Literal["none", "wrong", "other"] = "none"


@dataclass(frozen=True)
class Tree:
    """Half of the completions are roots; at one token of each, two more continuations are sampled.

    Attributes:
        at: What the token is drawn by: `"random"`, `"h"`, `"d"`, `"d*h"`, or the picks that `"decisions"` are.
    """

    at: Literal["random", "h", "d", "d*h", "decisions"] = "random"


@dataclass(frozen=True)
class KnowingArm(Arm):
    """One way of training.

    Attributes:
        start: Of policy and reference.
        baseline: The arm that it is compared with: GRPO from the same start.
        is_told: Whether its rule takes `told`: knowledge that no real training has, or an estimate of it.
        values: Where the values that it is told come from; None for none.
        sigma: Noise on the logit of exact values.
        hint: Of the reference; None for none.
        tree: How completions branch; None: they do not.
        rate: Factor of the variant's learning rate.
        group: Of the ladder's rungs or of the questions about hindsight; where it stands in tables.
    """

    start: Start = field(default=PLAIN)
    baseline: str = "grpo"
    is_told: bool = False
    values: Literal["exact", "gold likelihood"] | None = None
    sigma: float = 0.0
    hint: Hint | None = None
    tree: Tree | None = None
    rate: float = 1.0
    group: str = ""

    @cached_property
    def credit_rule(self) -> CreditRule:
        """The rule; one that is told something cannot be tried on made-up statistics."""
        if not self.is_told:
            return super().credit_rule
        assert not isinstance(self.rule, str)
        return CreditRule(self.rule.__name__, self.rule, dict(self.options))

    def digest(self) -> str:
        """Return a digest of what the arm does."""
        training = (self.start, self.values, self.sigma, self.hint, self.tree, self.rate)
        return digest([super().digest(), training])

    def rule_for(self, told: Told) -> CreditRule:
        """Return the rule for one batch."""
        rule = self.credit_rule
        return CreditRule(rule.name, rule.function, {**rule.options, "told": told}) if self.is_told else rule
