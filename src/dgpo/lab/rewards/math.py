"""Mathematical answers, checked by math-verify in processes that can be killed, with every outcome counted.

One function, `MathReward.verdicts`, under two thin faces: TRL's reward function (`math_reward` and its siblings) and
verl's `compute_score`.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dgpo.errors import RewardError
from dgpo.lab.rewards.completions import Completion, completion_text
from dgpo.lab.rewards.extraction import AnswerFormat, answer_formats, extract_answer
from dgpo.lab.rewards.pool import OUTCOMES, Question, Verdict, VerifierPool
from dgpo.names import did_you_mean

CORRECT, WRONG, UNPARSEABLE, TIMEOUT, CRASH, UNPARSEABLE_GOLD = OUTCOMES
# math-verify's own search runs regular expressions that take long on long texts; the answer stands at the end.
_RAW_TAIL = 20_000


class MathReward:
    """A reward function that gives 1 for each completion whose answer equals the gold answer, 0 for the others.

    Answers are compared as mathematics by math-verify: `1/2`, `0.5` and `\\frac12` are equal. Whatever the model wrote,
    each completion gets exactly one score: an answer that takes too long or crashes the verifier scores 0, and so does
    a missing one. A completion whose gold answer cannot be read gets `None`, which keeps it out of its group's mean.

    Args:
        answer_format: Where the answer stands; see `extract_answer`. `math_verify` lets that library look for it.
        pool: The processes that check; by default one pool for all rewards of this process.
        name: What the reward is called in metrics.
        max_length: Longest completion in tokens, where it is known: a completion of as many was cut off, and `auto`
            takes no last number from it. `dgpo train` sets it.

    Attributes:
        counts: How often each outcome came up so far.

    Example:
        >>> reward = MathReward("boxed")
        >>> reward(["so \\\\boxed{0.5}", "so 0.5", "\\\\boxed{2}"], ["1/2", "1/2", "1/2"])
        [1.0, 0.0, 0.0]
        >>> reward.counts["unparseable"], reward.counts["wrong"]
        (1, 1)
    """

    def __init__(
        self,
        answer_format: AnswerFormat = "auto",
        *,
        pool: VerifierPool | None = None,
        name: str | None = None,
        max_length: int | None = None,
    ) -> None:
        if answer_format not in answer_formats():
            hint = did_you_mean(str(answer_format), answer_formats())
            raise RewardError(
                f"there is no answer format {answer_format!r}.{hint} There are: {', '.join(answer_formats())}."
            )
        self.answer_format, self.max_length = answer_format, max_length
        self.counts: Counter[str] = Counter()
        self.__name__ = name or ("math" if answer_format == "auto" else f"math_{answer_format}")
        self._pool = pool
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        settings = {"answer_format": self.answer_format, "max_length": self.max_length}
        return {**settings, "pool": self._pool, "name": self.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def with_length(self, max_length: int) -> "MathReward":
        """Return the same reward for completions of at most so many tokens.

        Args:
            max_length: Tokens of the longest completion.

        Returns:
            The reward.
        """
        return MathReward(**{**self.__getstate__(), "max_length": max_length})

    @property
    def pool(self) -> VerifierPool:
        """The processes that check."""
        return self._pool or shared_pool()

    def verdicts(
        self, texts: Sequence[str], golds: Sequence[Any], *, complete: Sequence[bool] | None = None
    ) -> list[Verdict]:
        """Return what came of each text; the one function under both faces.

        Args:
            texts: What the model said.
            golds: The gold answer of each.
            complete: Whether each text came to its end, where that is known; see `extract_answer`.

        Returns:
            One verdict per text, in order; its `answer` is what was compared.

        Raises:
            ValueError: If there is not one gold answer per text.
            RewardError: If no verifier can be started.
        """
        questions = self._questions(texts, golds, complete)
        return self._counted(questions, self.pool.check(questions))

    async def verdicts_async(self, texts: Sequence[str], golds: Sequence[Any]) -> list[Verdict]:
        """Return what `verdicts` returns, without blocking the event loop.

        Args:
            texts: What the model said.
            golds: The gold answer of each.

        Returns:
            One verdict per text, in order.
        """
        questions = self._questions(texts, golds)
        futures = [asyncio.wrap_future(future) for future in self.pool.submit(questions)]
        try:
            return self._counted(questions, list(await asyncio.gather(*futures)))
        finally:
            for future in futures:
                future.cancel()

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[Any] | None = None,
        *,
        solution: Sequence[Any] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one score per completion; TRL's face.

        Args:
            completions: Texts, or lists of chat messages.
            answer: One gold answer per completion.
            solution: The same under the name of TRL's own data sets, read if there is no `answer`.
            completion_ids: The tokens of each; with `max_length`, they say which completions were cut off.
            log_metric: TRL's hook: the share of each outcome is logged as `math/<outcome>`.
            **columns: The other columns of the data set, unused.

        Returns:
            1.0 or 0.0 per completion, or `None` where the gold answer cannot be read.

        Raises:
            RewardError: If there is neither column, or no verifier can be started.
        """
        golds = answer if answer is not None else solution
        if golds is None:
            raise RewardError(
                f"{self.__name__} needs the gold answers in a column 'answer' or 'solution'; the data set has "
                f"{', '.join(sorted(columns)) or 'neither'}."
            )
        complete = None
        if self.max_length is not None and completion_ids is not None:
            complete = [len(ids) < self.max_length for ids in completion_ids]
        verdicts = self.verdicts([completion_text(completion) for completion in completions], golds, complete=complete)
        if log_metric is not None and verdicts:
            shares = Counter(verdict.outcome for verdict in verdicts)
            for outcome in OUTCOMES:
                log_metric(f"math/{outcome}", shares[outcome] / len(verdicts))
        return [score(verdict) for verdict in verdicts]

    def _questions(
        self, texts: Sequence[str], golds: Sequence[Any], complete: Sequence[bool] | None = None
    ) -> list[Question]:
        ended = [True] * len(texts) if complete is None else complete
        return [self._question(*row) for row in zip(texts, golds, ended, strict=True)]

    def _question(self, text: str, gold: Any, complete: bool) -> Question:
        gold = "" if gold is None else str(gold).strip()
        if self.answer_format == "math_verify":
            return Question(gold, text[-_RAW_TAIL:], raw=True)
        return Question(gold, extract_answer(text, self.answer_format, complete=complete))

    def _counted(self, questions: Sequence[Question], verdicts: list[Verdict]) -> list[Verdict]:
        with self._lock:
            self.counts.update(verdict.outcome for verdict in verdicts)
        # The answer in the model's own words, where it was found here.
        return [
            verdict if question.raw else verdict._replace(answer=question.answer)
            for question, verdict in zip(questions, verdicts, strict=True)
        ]


def score(verdict: Verdict) -> float | None:
    """Return the score of a verdict.

    Args:
        verdict: What came of an answer.

    Returns:
        1.0 if it is correct, `None` if its gold answer cannot be read, else 0.0.

    Example:
        >>> score(Verdict("correct")), score(Verdict("timeout")), score(Verdict("unparseable_gold"))
        (1.0, 0.0, None)
    """
    if verdict.outcome == UNPARSEABLE_GOLD:
        return None
    return float(verdict.outcome == CORRECT)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    answer_format: AnswerFormat = "auto",
    **kwargs: Any,
) -> dict[str, Any]:
    """Return the score of one completion as verl's reward managers want it.

    In verl, `reward.custom_reward_function.path=pkg://dgpo.lab.rewards.math` with `.name=compute_score`, and for
    another format `+reward.custom_reward_function.reward_kwargs.answer_format=answer`. (Without `reward.` in front,
    verl 0.9.1's trainer does not read these keys.)

    Args:
        data_source: Where the prompt came from, unused.
        solution_str: What the model said.
        ground_truth: The gold answer.
        extra_info: The row's other facts, unused.
        answer_format: Where the answer stands.
        **kwargs: What other versions of verl pass on, unused.

    Returns:
        `score` (1.0 or 0.0; 0.0 also for a gold answer that cannot be read, as verl knows no missing score), `acc`,
        `pred` (the answer found) and `outcome`.

    Raises:
        RewardError: If no verifier can be started.

    Example:
        >>> compute_score("math_dapo", "Answer: 0.5", "1/2")
        {'score': 1.0, 'acc': True, 'pred': '0.5', 'outcome': 'correct'}
    """
    (verdict,) = _verl_reward(answer_format).verdicts([solution_str], [ground_truth])
    correct = verdict.outcome == CORRECT
    return {"score": float(correct), "acc": correct, "pred": verdict.answer or "", "outcome": verdict.outcome}


def shared_pool() -> VerifierPool:
    """Return the pool that all rewards of this process share; its processes start on first use.

    Returns:
        The pool.

    Example:
        >>> shared_pool() is shared_pool()
        True
    """
    return _SHARED_POOL


def _verl_reward(answer_format: AnswerFormat) -> MathReward:
    if answer_format not in _VERL_REWARDS:
        _VERL_REWARDS[answer_format] = MathReward(answer_format)
    return _VERL_REWARDS[answer_format]


_SHARED_POOL = VerifierPool()
_VERL_REWARDS: dict[str, MathReward] = {}

math_reward = MathReward("auto")
math_boxed_reward = MathReward("boxed")
math_answer_reward = MathReward("answer")
math_hashes_reward = MathReward("hashes")
math_tag_reward = MathReward("tag")
math_last_number_reward = MathReward("last_number")
