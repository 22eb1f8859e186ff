"""Gold answers checked before they are used: each must be readable, equal itself, and differ from its own fragments."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dgpo.errors import RewardError
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.lab.rewards.math import CORRECT, UNPARSEABLE_GOLD, MathReward
from dgpo.lab.rewards.pool import Question, VerifierPool
from dgpo.lab.rewards.registry import get_reward, is_own

# How a completion gives an answer in each format; a box where there is none of its own.
_GIVEN = {"answer": "Answer: {}", "hashes": "#### {}", "tag": "<answer>{}</answer>", "last_number": "It is {}."}
_NUMBER = re.compile(r"(?<![A-Za-z0-9.,{}^_])[0-9]+(?:\.[0-9]+)?(?![0-9.,]*[0-9])(?!\s*\\?%|_|\^\\circ)")
_MAX_FRAGMENTS = 6
_SHOWN = 3


@dataclass(frozen=True)
class GoldLint:
    """What was found in gold answers.

    Attributes:
        total: How many were checked; equal texts count once.
        unreadable: Those that cannot be read: completions get no score.
        unequal: Those that a completion cannot give in this format: written out, they do not score 1.
        partial: Gold answers with a fragment that scores 1 too, and the fragment.
    """

    total: int
    unreadable: tuple[str, ...]
    unequal: tuple[str, ...]
    partial: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.unreadable or self.unequal or self.partial)

    def __str__(self) -> str:
        parts = [
            f"{len(golds):,} {what} (such as {', '.join(map(repr, golds[:_SHOWN]))})"
            for golds, what in (
                (self.unreadable, "cannot be read and give no score"),
                (self.unequal, "do not score 1 when a completion repeats them"),
                (tuple(f"{gold}: {part}" for gold, part in self.partial), "accept a fragment of themselves"),
            )
            if golds
        ]
        return f"of {self.total:,} different gold answers, {'; '.join(parts) or 'all are in order'}"


def lint_golds(
    golds: Sequence[Any], answer_format: AnswerFormat = "auto", *, pool: VerifierPool | None = None
) -> GoldLint:
    """Return which gold answers cannot be used to score completions, or score what they should not.

    Args:
        golds: The gold answers.
        answer_format: Where completions give theirs.
        pool: The processes that check; by default the one that all rewards share.

    Returns:
        What was found.

    Raises:
        RewardError: If no verifier can be started.

    Example:
        >>> lint = lint_golds(["1/2", "2,4,\\\\ldots,2n"])
        >>> lint.unreadable, lint.ok
        (('2,4,\\\\ldots,2n',), False)
        >>> print(lint_golds(["1/2", "x=3"]))
        of 2 different gold answers, all are in order
    """
    texts = tuple(dict.fromkeys("" if gold is None else str(gold).strip() for gold in golds))
    reward = MathReward(answer_format, pool=pool)
    whole = reward.verdicts([_GIVEN.get(answer_format, "\\boxed{{{}}}").format(text) for text in texts], texts)
    readable = [text for text, verdict in zip(texts, whole, strict=True) if verdict.outcome == CORRECT]
    pairs = [(text, fragment) for text in readable for fragment in _fragments(text)]
    # The gold answer with a fragment of it, and what each of the two is worth: 18 cups is 18, and may be called so.
    asked = [Question(gold, part) for gold, part in pairs]
    verdicts = reward.pool.check(asked)
    values = {text: verdict.value for text, verdict in zip(readable, _values(reward.pool, readable), strict=True)}
    return GoldLint(
        total=len(texts),
        unreadable=tuple(t for t, verdict in zip(texts, whole, strict=True) if verdict.outcome == UNPARSEABLE_GOLD),
        unequal=tuple(
            t for t, verdict in zip(texts, whole, strict=True) if verdict.outcome not in (CORRECT, UNPARSEABLE_GOLD)
        ),
        partial=tuple(
            pair
            for pair, verdict in zip(pairs, verdicts, strict=True)
            if verdict.outcome == CORRECT and verdict.value != values[pair[0]]
        ),
    )


def gold_lints(names: Sequence[str], golds: Sequence[Any]) -> dict[str, GoldLint]:
    """Return what the rewards of these names cannot use of gold answers, or score as they should not.

    Args:
        names: Names of rewards; those that are not `math` or one of its kind are passed over.
        golds: The gold answers, or lists of acceptable ones.

    Returns:
        By the name of the reward; none where no verifier starts, which training will say.

    Example:
        >>> print(gold_lints(["math_boxed", "exact_match"], ["7", "2 3"])["math_boxed"])
        of 2 different gold answers, 1 cannot be read and give no score (such as '2 3')
    """
    flat = [one for gold in golds for one in (gold if isinstance(gold, list) else [gold])]
    lints = {}
    for name in names:
        reward = None if is_own(name) else get_reward(name)
        if isinstance(reward, MathReward):
            with contextlib.suppress(RewardError):
                lints[name] = lint_golds(flat, reward.answer_format)
    return lints


def _values(pool: VerifierPool, texts: Sequence[str]) -> Any:
    return pool.check([Question("0", text) for text in texts])


def _fragments(gold: str) -> list[str]:
    """Its numbers, the parts between commas, and the sides of its relations."""
    parts = [match[0] for match in _NUMBER.finditer(gold)]
    parts += [part.strip() for part in re.split(r"[,;]|\\text\{\s*(?:and|or)\s*\}", gold.strip("()[]{}\\$"))]
    parts += [part.strip() for part in re.split(r"=|\\mid|<|>|\\[lg]eq?(?![a-z])", gold.strip("$"))]
    return [part for part in dict.fromkeys(parts) if part and part != gold][:_MAX_FRAGMENTS]
