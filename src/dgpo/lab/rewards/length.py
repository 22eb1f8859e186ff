"""DAPO's soft overlong penalty (arXiv:2503.14476, equation 13): TRL's function, told how long is too long."""

from collections.abc import Sequence
from typing import Any

from dgpo.errors import RewardError


class SoftOverlong:
    """A reward function that takes points from completions that come near their limit.

    0 up to `max_completion_length - buffer` tokens, then falling evenly to -1 at `max_completion_length`:
    `(L_max - L_cache - |y|) / L_cache`. The reward itself is `trl.rewards.get_soft_overlong_punishment`.

    Args:
        max_completion_length: Tokens at which a completion scores -1; `None` is filled in by `with_length`.
        buffer: Tokens over which the score falls; by default a fifth of the length, DAPO's 4096 of 20480.

    Example:
        >>> penalty = SoftOverlong(100)
        >>> penalty(completion_ids=[[0] * 80, [0] * 90, [0] * 100])
        [0.0, -0.5, -1.0]
    """

    def __init__(self, max_completion_length: int | None = None, buffer: int | None = None) -> None:
        self.__name__ = "soft_overlong"
        self.max_completion_length = max_completion_length
        self.buffer = buffer
        if max_completion_length is None:
            return
        if buffer is None:
            self.buffer = max(1, max_completion_length // 5)
        elif not 0 < buffer <= max_completion_length:
            raise RewardError(
                f"soft_overlong: buffer is {buffer}; it must be at least 1 and at most max_completion_length, "
                f"{max_completion_length}."
            )

    def with_length(self, max_completion_length: int | None) -> "SoftOverlong":
        """Return this penalty for completions of at most this length; itself if it has a length already.

        Args:
            max_completion_length: Tokens.

        Returns:
            A penalty.

        Example:
            >>> SoftOverlong().with_length(20480).buffer
            4096
        """
        if self.max_completion_length is not None:
            return self
        return SoftOverlong(max_completion_length, self.buffer)

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
        """Return one number from -1 to 0 per completion.

        Args:
            completion_ids: The tokens of each completion.
            **columns: What else TRL hands over, unused.

        Returns:
            The penalties.

        Raises:
            RewardError: If nobody said how long a completion may be.
        """
        if self.max_completion_length is None or self.buffer is None:
            raise RewardError(
                "soft_overlong does not know how long a completion may be; use SoftOverlong(max_completion_length)."
            )
        from trl.rewards import get_soft_overlong_punishment

        punish = get_soft_overlong_punishment(self.max_completion_length, self.buffer)
        return [float(value) for value in punish(completion_ids=list(completion_ids))]


soft_overlong_reward = SoftOverlong()
