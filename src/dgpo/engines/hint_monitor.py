"""A notice, given once, when hints do not tell the better completions: wrong ones, or a reference that ignores them."""

_ENOUGH = 100
"""Pairs of completions after which the share is looked at; pairs of one prompt hang together."""

_NOTICEABLE = 0.6
"""Share below which the notice is due; .5 is chance."""


class HintMonitor:
    """Counts how often the better one of two completions of a prompt is the one that the hint makes likelier.

    Args:
        hint: The setting, for the advice.

    Example:
        >>> monitor = HintMonitor("gold")
        >>> monitor.update(90.0, 110.0) is None    # 82 %
        True
        >>> monitor.update(25.0, 50.0) is None    # too few
        True
        >>> print(monitor.update(27.0, 50.0))
        Hints do not tell the better completions: of the last 100 pairs of completions of a prompt the better one was \
the one that the hint makes likelier in 52 %, where 50 % is chance (dgpo/hint/auroc). Either they are wrong, and wrong \
hints do harm, or the reference does not follow them any more, or never did. Read hint='gold' above the completions of \
`dgpo report`; stop the run if they are wrong, or if accuracy falls.
    """

    def __init__(self, hint: str | None) -> None:
        self._hint = hint
        self._wins = self._pairs = 0.0
        self._notified = False

    def update(self, wins: float, pairs: float) -> str | None:
        """Return the notice if it is due now.

        Args:
            wins: Of a rollout of all ranks, the pairs in which hint and rewards agree.
            pairs: All of its pairs.

        Returns:
            The notice, at most once in the life of the monitor; None otherwise.
        """
        self._wins, self._pairs = self._wins + wins, self._pairs + pairs
        if self._pairs < _ENOUGH:
            return None
        share, count = self._wins / self._pairs, int(self._pairs)
        self._wins = self._pairs = 0.0
        if self._notified or share >= _NOTICEABLE:
            return None
        self._notified = True
        return (
            f"Hints do not tell the better completions: of the last {count} pairs of completions of a prompt the better"
            f" one was the one that the hint makes likelier in {100 * share:.0f} %, where 50 % is chance"
            " (dgpo/hint/auroc). Either they are wrong, and wrong hints do harm, or the reference does not follow them"
            f" any more, or never did. Read hint={self._hint!r} above the completions of `dgpo report`; stop the run if"
            " they are wrong, or if accuracy falls."
        )
