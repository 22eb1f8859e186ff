"""The options of a table of prompts and gold answers, checked before anything is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError
from dgpo.lab.rewards.registry import get_reward, is_own, needs_gold
from dgpo.lab.tasks.layouts import fill_template, find_columns, whole_text
from dgpo.lab.tasks.prompting import check_chat
from dgpo.lab.tasks.readers import Table, read_file
from dgpo.lab.tasks.rows import UsableRows, collect


def check_hub(
    *, split: str = "train", eval_split: str | None = None, eval_file: str | None = None, **options: Any
) -> None:
    """Raise for what is wrong with the options of `load_hub` as far as it can be known without the hub.

    Args:
        split: As for `load_hub`.
        eval_split: Likewise.
        eval_file: Likewise; the file is read.
        **options: Likewise, under names that `load_hub` has.

    Raises:
        DataError: If `eval_file` cannot be read.
        ConfigError: If an option cannot work.
    """
    check_sources(eval_split, eval_file, split)
    TableOptions(**{**options, "reward_options": options.get("reward_options") or {}})
    if eval_file is not None:
        read_file(Path(eval_file).expanduser())


def check_sources(eval_split: Any, eval_file: Any, split: Any = "train") -> None:
    """Raise if what names the held-out rows or the split is no text, or there are two of the former."""
    _check_texts({"split": split, "eval_split": eval_split, "eval_file": eval_file})
    if eval_split is not None and eval_file is not None:
        raise ConfigError("give eval_split or eval_file, not both.")


def _check_texts(given: Mapping[str, Any], *, may_be_empty: bool = False) -> None:
    for name, value in given.items():
        if value is not None and not (isinstance(value, str) and (value or may_be_empty)):
            raise ConfigError(f"{name} is {value!r:.60}; it must be a text (in quotes, where it looks like a number).")
        if value is not None:
            whole_text(value, name)


@dataclass(frozen=True)
class TableOptions:
    """The options that a file and a data set of the hub share, checked; see `dgpo.lab.tasks.files.load_file`."""

    seed: int = 0
    eval_size: int | None = None
    rewards: Sequence[str] | None = None
    reward_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prompt_column: str | None = None
    answer_column: str | None = None
    system_prompt: str | None = None
    prompt_template: str | None = None
    chat: bool | None = None

    def __post_init__(self) -> None:
        _check_texts({"prompt_column": self.prompt_column, "answer_column": self.answer_column})
        texts = {"system_prompt": self.system_prompt, "prompt_template": self.prompt_template}
        _check_texts(texts, may_be_empty=True)
        size = self.eval_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise ConfigError(f"eval_size is {size!r}; it must be a whole number of at least 0.")
        check_chat(self.chat)
        fill_template(self.prompt_template, "")  # refuses a template without {prompt}
        for name in self.rewards or ():
            if name != "task":
                self.reward(name)  # refuses an unknown name before anything is read

    def reward(self, name: str) -> Any:
        """Return the scorer of this name, with its options."""
        return get_reward(name, **self.reward_options.get(name, {}))

    def collect(self, table: Table) -> tuple[UsableRows, tuple[str, str]]:
        """Return the rows of a table, and the columns of prompt and gold answer."""
        names = self.rewards or ()
        own = any(map(is_own, names))
        columns = find_columns(
            table.columns,
            table.name,
            prompt_column=self.prompt_column,
            answer_column=self.answer_column,
            needs_answer=not names or "task" in names or any(map(needs_gold, names)),
        )
        known = [name for name in names if name != "task"] if "task" not in names else []
        return collect(table, columns, known, all_columns=own), columns
