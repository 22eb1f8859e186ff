"""Whether there is anything to learn from: groups whose completions got different rewards, and why there are none."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from dgpo.lab.rewards.completions import completion_text
from dgpo.lab.rewards.registry import answer_finder

PATIENCE = 5
"""Samplings in a row without a differing group after which this is said."""
_SHOWN = 2
_CHARACTERS = 120


class SignalMonitor:
    """Counts groups whose rewards differ: only these move the policy, as an advantage compares within a group.

    Args:
        task: The task, for gold answers and the scorer.
        num_generations: Completions of a group.
        weights: Of the reward functions; None for equal ones.

    Attributes:
        samplings: How many were seen since the last differing group.
        groups: Groups in them.
    """

    def __init__(self, task: Any, num_generations: int, weights: Sequence[float] | None = None) -> None:
        self._task, self._size, self._weights = task, num_generations, weights
        self._answer_of: Callable[[str], str | None] = answer_finder(task.reward_funcs[0])
        self.samplings = self.groups = 0
        self._newest: dict[str, Any] = {}
        self._counted = self._differing = 0  # since the last line of the log
        self._said = False

    def add(self, logs: dict[str, Any]) -> None:
        """Count the groups of a rollout.

        Args:
            logs: TRL's `_logs`: prompts, completions and rewards of the newest rollout.
        """
        totals = self._totals(logs["rewards"])
        groups = [totals[start : start + self._size] for start in range(0, len(totals), self._size)]
        differing = sum(map(_differ, groups))
        self._counted += len(groups)
        self._differing += differing
        self._newest = {"prompt": list(logs["prompt"]), "completion": list(logs["completion"]), "totals": totals}
        self._newest["accuracy"] = list(next(iter(logs["rewards"].values())))
        if differing:
            self.samplings = self.groups = 0
        else:
            self.samplings += 1
            self.groups += len(groups)

    def take_share(self) -> float | None:
        """Return the share of groups that differed since the last call; None if there were no groups."""
        share = self._differing / self._counted if self._counted else None
        self._counted = self._differing = 0
        return share

    def due(self) -> bool:
        """Return whether to say now, and only once, that there is no signal."""
        if self._said or self.samplings < PATIENCE:
            return False
        self._said = True
        return True

    def notice(self, truncated: float | None) -> str:
        """Return what was sampled last, beside the gold answers, and the likeliest cause.

        Args:
            truncated: The share of completions that were cut off, where known.

        Returns:
            Several lines.
        """
        samplings = f"the last {self.samplings} samplings" if self.samplings > 1 else "the last sampling"
        lines = [
            f"No signal: in {samplings}, 0 of {self.groups} groups had differing rewards, so nothing was learned from "
            "them.",
        ]
        for prompt, completion in list(zip(self._newest["prompt"], self._newest["completion"], strict=True))[-_SHOWN:]:
            gold = self._gold(prompt)
            lines.append(f"  completion {_short(completion_text(completion))}, gold answer {_short(gold)}")
        return "\n".join([*lines, f"  Likeliest cause: {self.cause(truncated)}"])

    def cause(self, truncated: float | None) -> str:
        """Return the likeliest cause of equal rewards, and what to do about it.

        Args:
            truncated: The share of completions that were cut off, where known.

        Returns:
            A sentence.
        """
        texts = [completion_text(completion) for completion in self._newest["completion"]]
        known = [value for value in self._newest["accuracy"] if not _none(value)]
        count, half = len(texts), len(texts) / 2
        empty = sum(not text.strip() for text in texts)
        unanswered = sum(self._answer_of(text) is None for text in texts)
        if not known:
            return "no completion could be scored; can the reward read the gold answers? (`--dry-run` lists them)"
        if min(known) >= 1:
            return "every completion is right already: take harder prompts"
        if empty > half:
            return (
                f"{empty} of {count} completions are empty, the model ends at once: it may want its chat template "
                "(chat: false switches it off), or another prompt (system_prompt, prompt_template)"
            )
        if truncated is not None and truncated > 0.5:
            return (
                f"{100 * truncated:.0f} % of the completions are cut off at max_completion_length before they answer: "
                "raise it, or ask for short answers (system_prompt)"
            )
        if unanswered > half:
            return (
                f"no answer was found in {unanswered} of {count} completions: say in the prompt in which form it is "
                "wanted (system_prompt, prompt_template), or choose another reward"
            )
        return (
            "the completions of a prompt are all wrong, or all alike: take easier prompts, a more lenient reward "
            "(text_match in place of exact_match), more completions a prompt (num_generations) or a higher temperature"
        )

    def _totals(self, rewards: dict[str, Any]) -> list[float]:
        """The weighted sum of the rewards of each completion; nan where none was given."""
        weights = self._weights or [1.0] * len(rewards)
        totals = []
        for values in zip(*rewards.values(), strict=True):
            known = [w * v for w, v in zip(weights, values, strict=True) if not _none(v)]
            totals.append(sum(known) if known else math.nan)
        return totals

    def _gold(self, prompt: Any) -> str:
        rows = self._task.train
        if "answer" not in rows:
            return "none"
        if prompt not in rows["prompt"]:
            return "unknown"
        gold = rows["answer"][rows["prompt"].index(prompt)]
        return " | ".join(gold) if isinstance(gold, list) else str(gold)


def _differ(group: Sequence[float]) -> bool:
    known = [value for value in group if not math.isnan(value)]
    return len(known) > 1 and max(known) - min(known) > 1e-6 * max(1.0, max(map(abs, known)))


def _none(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + " ...")
