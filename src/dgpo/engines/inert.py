"""A notice, given once, when a run has been GRPO all along because the weights never left 1."""

import math

from dgpo.core import CreditStats
from dgpo.rules import CreditRule, even

_NOTICEABLE_WEIGHT = 1.5


class InertMonitor:
    """Counts the steps in a row without a weight outside of 1 +- 0.01, and gives one notice when they are enough.

    Args:
        patience: Steps before the notice; 0: never.
        tau: The rule's temperature, for the advice; None where it has none.
        kappa: The rule's gate exponent, for the advice; None where it has none.
        rule: The rule's name.

    Example:
        >>> flat = CreditStats(10, 1, 1.0, 0.0, 1.0, 1.0, 1e-4, 2e-3, True)
        >>> monitor = InertMonitor(patience=2, tau=0.5, kappa=1.0)
        >>> monitor.update(flat, first_step=1, last_step=1) is None
        True
        >>> print(monitor.update(flat, first_step=2, last_step=2))    # 0.002 / log 1.5 = 0.0049
        DGPO has been inert for 2 steps: every weight was within 0.01 of 1, so this is plain GRPO. Only s / tau \
counts: the largest gated score was 0.002 and tau is 0.5. Lower tau; at about 0.0049 that token would weigh 1.5 times \
one of score 0. A smaller kappa (now 1) raises the scores of confident tokens.
    """

    def __init__(self, patience: int, tau: float | None = None, kappa: float | None = None, rule: str = "dgpo") -> None:
        self._patience, self._tau, self._kappa, self._rule = patience, tau, kappa, rule
        self._inert_since: int | None = None
        self._notified = False

    @classmethod
    def of(cls, rule: CreditRule, patience: int) -> "InertMonitor":
        """Return the monitor of a rule; that of `even`, whose weights are always 1, gives no notice.

        Args:
            rule: The run's rule.
            patience: Steps before the notice; 0: never.

        Returns:
            A new monitor.

        Example:
            >>> from dgpo.rules import resolve
            >>> flat = CreditStats(10, 1, 1.0, 0.0, 1.0, 1.0, 1e-4, 2e-3, True)
            >>> InertMonitor.of(resolve("even"), patience=1).update(flat, 1, 1) is None
            True
        """
        options = rule.options
        return cls(0 if rule.function is even else patience, options.get("tau"), options.get("kappa"), rule.name)

    def update(self, stats: CreditStats, first_step: int, last_step: int) -> str | None:
        """Return the notice if it is due now.

        Args:
            stats: Of all weights since the last call.
            first_step: The first step that `stats` covers. Steps between two calls kept the weights of the earlier one.
            last_step: The last step that it covers.

        Returns:
            The notice, at most once in the life of the monitor; `None` otherwise.
        """
        if not stats.inert:
            self._inert_since = None
            return None
        if self._inert_since is None:
            self._inert_since = first_step
        inert_steps = last_step - self._inert_since + 1
        if self._notified or not self._patience or inert_steps < self._patience:
            return None
        self._notified = True
        return self._notice(stats, inert_steps)

    def _notice(self, stats: CreditStats, inert_steps: int) -> str:
        subject = "DGPO" if self._rule == "dgpo" else f"The credit rule {self._rule}"
        start = (
            f"{subject} has been inert for {inert_steps} steps: every weight was within 0.01 of 1, so this is plain"
            " GRPO."
        )
        if stats.score_max <= 0:
            return (
                f"{start} The policy is still equal to its reference (every distance is 0): check that it learns at all"
                " (learning_rate, rewards with spread, trainable parameters)."
            )
        if self._tau is None or math.isnan(stats.score_max):
            return f"{start} How far weights move from 1 is decided by the rule's options."
        tau = stats.score_max / math.log(_NOTICEABLE_WEIGHT)
        gate = f" A smaller kappa (now {self._kappa:g}) raises the scores of confident tokens." if self._kappa else ""
        return (
            f"{start} Only s / tau counts: the largest gated score was {stats.score_max:.3g} and tau is {self._tau:g}."
            f" Lower tau; at about {tau:.2g} that token would weigh {_NOTICEABLE_WEIGHT} times one of score 0.{gate}"
        )
