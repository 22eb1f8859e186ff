"""The rows of a table that can be trained on, and what was left out of it and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dgpo.errors import DataError
from dgpo.lab.progress import track
from dgpo.lab.rewards.lint import gold_lints
from dgpo.lab.rewards.registry import can_score, needs_gold
from dgpo.lab.tasks.layouts import Columns, Gold, Prompt, as_gold, as_prompt, cell
from dgpo.lab.tasks.readers import Table

_EXAMPLES = 3


class Row(NamedTuple):
    """A prompt, its gold answer, and the other columns where a reward of one's own may read them."""

    prompt: Prompt
    gold: Gold
    others: dict[str, Any]


@dataclass
class UsableRows:
    """The rows of a table that can be used, by the prompt's text, and counts of the others.

    Attributes:
        where: What messages call the table.
        usable: The rows.
        unread: Gold answers that no reward can read.
        notes: What the rewards cannot do with gold answers that are used.
    """

    where: str
    usable: dict[str, Row] = field(default_factory=dict)
    read: int = 0
    duplicates: int = 0
    contradictions: int = 0
    without_prompt: int = 0
    without_answer: int = 0
    unscorable: int = 0
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, prompt: Prompt | None, gold: Gold, others: dict[str, Any], *, needs_answer: bool) -> None:
        """Take a row, or count why not.

        Args:
            prompt: Its prompt; None for a blank one.
            gold: Its gold answer; `""` for none.
            others: The other columns.
            needs_answer: Whether a row without a gold answer is left out.
        """
        self.read += 1
        if prompt is None:
            self.without_prompt += 1
        elif not gold and needs_answer:
            self.without_answer += 1
        elif (key := prompt_key(prompt)) in self.usable:
            self.duplicates += 1
            self.contradictions += self.usable[key].gold != gold
        else:
            self.usable[key] = Row(prompt, gold, others)

    def dropped(self) -> str:
        """Return what was left out, in words; `""` for nothing."""
        shown = ", ".join(repr(gold[:40]) for gold in self.unread[:_EXAMPLES])
        counts = (
            (self.duplicates, "repeated"),
            (self.contradictions, "of them with another gold answer than the first"),
            (self.without_prompt, "without a prompt"),
            (self.without_answer, "without a gold answer"),
            (self.unscorable, f"whose gold answer the reward cannot read (such as {shown})"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)

    def keep_scorable(self, names: Sequence[str]) -> None:
        """Leave out the rows of which no reward can read the gold answer.

        Args:
            names: The rewards.

        Raises:
            DataError: If no row is left.
        """
        golds = [row.gold for row in self.usable.values()]
        lints = gold_lints(names, golds)
        unreadable = {name: set(lint.unreadable) for name, lint in lints.items()}

        def scores(name: str, gold: Gold) -> bool:
            unread = unreadable.get(name, set())
            single = gold if isinstance(gold, list) else [gold]
            return any(can_score(name, one) and one not in unread for one in single)

        scorable = {k: row for k, row in self.usable.items() if any(scores(name, row.gold) for name in names)}
        if not scorable:
            raise DataError(
                f"{self.where}: no row can be rewarded; {' and '.join(names)} can read none of the {len(golds):,} "
                f"gold answers, such as {golds[0]!r:.100}. Choose another reward, or another answer_column."
            )
        self.unread = [_shown(row.gold) for key, row in self.usable.items() if key not in scorable]
        self.unscorable = len(self.unread)
        self.usable = scorable
        self.notes = [f"{name}: {lint}" for name, lint in lints.items() if not lint.ok]


def prompt_key(prompt: Prompt) -> str:
    """Return what makes two prompts the same one."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def collect(table: Table, columns: Columns, names: Sequence[str], *, all_columns: bool) -> UsableRows:
    """Return the rows of a table that have a prompt and what the rewards need.

    Args:
        table: The table.
        columns: Where prompt and gold answer are.
        names: The rewards.
        all_columns: Keep the other columns too.

    Returns:
        At least one row, repeated prompts once.

    Raises:
        DataError: If there is none, or a value is of the wrong kind.
    """
    rows = UsableRows(table.name)
    needs_answer = any(map(needs_gold, names)) if names else True
    wanted = list(table.columns) if all_columns else columns.to_read(table.columns)
    for number, row in enumerate(track(table.rows(wanted), f"reading {table.name}")):
        where = f"{table.name}, row {number}"
        prompt = as_prompt(cell(row, columns.prompt, where), where)
        gold = as_gold(cell(row, columns.answer, where), where) if columns.answer else ""
        others = {k: v for k, v in row.items() if k not in (*columns, "prompt", "answer")} if all_columns else {}
        rows.add(prompt, gold, others, needs_answer=needs_answer)
    if not rows.usable:
        raise DataError(
            f"{table.name}: no row can be rewarded; of {rows.read:,} rows, {rows.without_answer:,} have no gold answer "
            f"in {columns.answer!r} and {rows.without_prompt:,} no prompt in {columns.prompt!r}."
        )
    return rows


def default_reward(golds: Sequence[Gold]) -> str:
    """Return the scorer of data that names none: by numbers where most gold answers are numbers, else as text.

    A few that are none do not change it: they are left out, and listed.

    Args:
        golds: The gold answers.

    Returns:
        `"last_number"` or `"exact_match"`.

    Example:
        >>> default_reward(["1", "2", "NaN"]), default_reward(["yes", "no", "3"])
        ('last_number', 'exact_match')
    """
    numbers = sum(can_score("last_number", gold) for gold in golds)
    return "last_number" if 2 * numbers > len(golds) else "exact_match"


def _shown(gold: Gold) -> str:
    return gold if isinstance(gold, str) else " | ".join(gold)
