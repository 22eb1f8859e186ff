"""What a task is: prompts with verifiable answers, a held-out split, and the functions that score a completion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgpo.lab.tasks.columns import Columns
from dgpo.lab.tasks.prompting import PromptFormat

if TYPE_CHECKING:
    from datasets import Dataset

RewardFn = Callable[..., list[float | None]]
"""TRL's signature: `fn(prompts, completions, completion_ids, **columns)` gives one number per completion, or `None`
where it cannot score."""


@dataclass(frozen=True)
class Task:
    """Prompts and the way to score what a model answers.

    Attributes:
        name: What the recipe calls it, such as `"forks"` or `"reasoning_gym:chain_sum"`.
        train: Column `prompt` (text, or a list of chat messages), and the columns that the reward reads.
        held_out: Rows of the same columns, disjoint from `train`; `None` if there are none.
        reward_funcs: The task's own scorers. The first one is the accuracy that is reported before and after.
        description: One line for `--dry-run`.
        metadata: Facts for a report (sizes, options, where the rows came from).
        notes: What was left out of the data and why, and gold answers that a scorer cannot read; one sentence each.
        chat: Whether prompts go through the chat template; None where the model's tokenizer has one.
    """

    name: str
    train: Columns
    held_out: Columns | None
    reward_funcs: tuple[RewardFn, ...]
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chat: bool | None = None

    @property
    def train_dataset(self) -> "Dataset":
        """The training rows as a data set."""
        return self.train.dataset

    @property
    def eval_dataset(self) -> "Dataset | None":
        """The held-out rows as a data set; `None` if there are none."""
        return None if self.held_out is None else self.held_out.dataset

    def prompt_format(self, template_kwargs: Mapping[str, Any] | None = None) -> PromptFormat:
        """Return how the prompts are put to a model.

        Args:
            template_kwargs: What the chat template is given.

        Returns:
            The format.
        """
        return PromptFormat(self.chat, dict(template_kwargs or {}))
