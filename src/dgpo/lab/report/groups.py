"""Completions of a logged step by prompt."""

from typing import Any

from dgpo.credit_log import CompletionCredit, LoggedStep


def groups_of(step: LoggedStep) -> list[list[tuple[int, CompletionCredit]]]:
    """Return the completions of a step by prompt: by group where that is logged, or else by the prompt's text.

    Args:
        step: A logged step.

    Returns:
        For each prompt its completions, each with its place in the log.

    Example:
        >>> completions = [CompletionCredit(prompt, [1], ["a"]) for prompt in "pqp"]
        >>> [[place for place, _ in group] for group in groups_of(LoggedStep(1, {}, completions))]
        [[0, 2], [1]]
    """
    groups: dict[Any, list[tuple[int, CompletionCredit]]] = {}
    for place, completion in enumerate(step.completions):
        key = completion.prompt if completion.group is None else ("group", completion.group)
        groups.setdefault(key, []).append((place, completion))
    return list(groups.values())


def most_telling_group(step: LoggedStep) -> list[CompletionCredit]:
    """Return the prompt of a step that says most: right and wrong completions, of the largest advantages.

    Args:
        step: A logged step.

    Returns:
        Its completions, those above the group's mean beside those below it, the largest advantages first; empty for a
        step without completions.
    """
    groups = [[completion for _, completion in group] for group in groups_of(step)]
    return _paired(max(groups, key=_telling, default=[]))


def _telling(group: list[CompletionCredit]) -> tuple[bool, float, float]:
    advantages = [completion.advantage or 0.0 for completion in group]
    shares = [1.0 if completion.effective_share is None else completion.effective_share for completion in group]
    return min(advantages) < 0 < max(advantages), max(map(abs, advantages)), -min(shares)


def _paired(group: list[CompletionCredit]) -> list[CompletionCredit]:
    by_size = sorted(group, key=lambda completion: -abs(completion.advantage or 0.0))
    sides = [[c for c in by_size if (c.advantage or 0.0) * sign > 0] for sign in (1, -1)]
    longest = max(map(len, sides))
    pairs = [side[index] for index in range(longest) for side in sides if index < len(side)]
    return [*pairs, *(c for c in by_size if not c.advantage)]
