"""Problems, and what came of a completion: by the task's own scorer, or as mathematics in a protocol's format."""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dgpo.checked import checked
from dgpo.errors import ConfigError
from dgpo.lab.rewards.math import CORRECT, CRASH, UNPARSEABLE, WRONG, MathReward, score
from dgpo.lab.rewards.registry import answer_finder
from dgpo.lab.tasks.base import RewardFn
from dgpo.lab.tasks.layouts import Prompt

NO_ANSWER = frozenset({UNPARSEABLE, CRASH, "timeout"})
"""Outcomes of completions from which no answer was read; they do not vote."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        name: Unique among the problems of a set.
        prompt: Text, or chat messages.
        gold: The right answer, `""` where the scorer needs none; of several, one after the other.
        columns: The columns that the task's scorer reads.
        digest: Hash of the prompt, before any template and without a system prompt, and of the gold answer: whether two
            evaluations have the same problem.
    """

    name: str
    prompt: Prompt
    gold: str
    columns: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def golds(self) -> list[str]:
        """The acceptable answers: mostly one."""
        several = self.columns.get("answer")
        return list(several) if isinstance(several, list) else [self.gold]

    def __post_init__(self) -> None:
        if not self.digest:
            messages = (
                self.prompt if isinstance(self.prompt, str) else [m for m in self.prompt if m["role"] != "system"]
            )
            digest = hashlib.sha256(json.dumps([messages, self.gold], sort_keys=True).encode()).hexdigest()[:12]
            object.__setattr__(self, "digest", digest)


class Scored(NamedTuple):
    """What came of one completion.

    Attributes:
        score: From 0 to 1, or `None` if the gold answer cannot be read.
        answer: What it answered.
        outcome: `correct`, `wrong`, `unparseable`, `timeout`, `crash` or `unparseable_gold`.
        value: The value of a mathematical answer, for the majority vote; `None` where the answer stands for itself.
    """

    score: float | None
    answer: str | None
    outcome: str
    value: str | None = None


Scorer = Callable[..., list[Scored]]
"""Scores the texts of problems; a third argument says which were cut off at the longest length, by default none."""


def math_scorer(reward: MathReward) -> Scorer:
    """Return what compares answers with the gold answers as mathematics; of several, the best comparison counts.

    Args:
        reward: Where the answer is looked for.

    Returns:
        A function of problems, texts and whether each was cut off.
    """

    def scored(problems: Sequence[Problem], texts: Sequence[str], truncated: Sequence[bool] = ()) -> list[Scored]:
        asked = [(index, gold) for index, problem in enumerate(problems) for gold in problem.golds]
        verdicts = reward.verdicts(
            [texts[index] for index, _ in asked],
            [gold for _, gold in asked],
            complete=[not any(truncated[index : index + 1]) for index, _ in asked],
        )
        best: dict[int, Scored] = {}
        for (index, _), verdict in zip(asked, verdicts, strict=True):
            found = Scored(score(verdict), verdict.answer, verdict.outcome, verdict.value)
            known = best.get(index)
            if known is None or _worth(found) > _worth(known):
                best[index] = found
        return [best[index] for index in range(len(problems))]

    return scored


def reward_scorer(reward: RewardFn, *, after_equals: bool) -> Scorer:
    """Return what scores by a reward function, called as the trainer calls it.

    Args:
        reward: The function.
        after_equals: Where it does not say itself what the answer is: what follows the last equals sign, as in forks
            and much of reasoning-gym, or else the whole text.

    Returns:
        A function of problems, texts and whether each was cut off, which the function is not told.

    Raises:
        ConfigError: If the function needs what an evaluation does not have.
    """
    _refuse_what_only_training_has(reward)
    call = checked(reward)
    answer_of = answer_finder(reward)
    if after_equals and not hasattr(reward, "answer_of"):
        answer_of = _after_equals

    def scored(problems: Sequence[Problem], texts: Sequence[str], truncated: Sequence[bool] = ()) -> list[Scored]:
        columns = {key: [problem.columns[key] for problem in problems] for key in problems[0].columns}
        # A chat is answered by a message, as in training.
        completions = [
            text if isinstance(problem.prompt, str) else [{"role": "assistant", "content": text}]
            for problem, text in zip(problems, texts, strict=True)
        ]
        values = call(prompts=[problem.prompt for problem in problems], completions=completions, **columns)
        return [_scored(value, answer_of(text) or None) for value, text in zip(values, texts, strict=True)]

    return scored


def _worth(found: Scored) -> float:
    return -1.0 if found.score is None else found.score


def _after_equals(text: str) -> str | None:
    return text.rpartition("=")[2].strip() or None


def _refuse_what_only_training_has(reward: RewardFn) -> None:
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):
        return
    for parameter in parameters:
        if parameter.name in ("completion_ids", "trainer_state") and parameter.default is parameter.empty:
            name = getattr(reward, "__name__", type(reward).__name__)
            raise ConfigError(
                f"the reward {name} needs {parameter.name}, which only training has. Put another reward first: the "
                "first one is the accuracy that is measured."
            )


def _scored(value: float | None, answer: str | None) -> Scored:
    if value is None:
        return Scored(None, answer, "unparseable_gold")
    outcome = CORRECT if value >= 1 else UNPARSEABLE if answer is None else WRONG
    return Scored(float(value), answer, outcome)
