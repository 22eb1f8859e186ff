"""The rows of a task by columns; a data set of `datasets`, which takes seconds to load, where one is asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


class Columns:
    """Rows as columns of equal length.

    Args:
        values: Column name to values.

    Example:
        >>> rows = Columns({"prompt": ["1 + 1?", "1 + 2?"], "answer": ["2", "3"]})
        >>> len(rows), rows.row(1), rows.select([0])["answer"]
        (2, {'prompt': '1 + 2?', 'answer': '3'}, ['2'])
    """

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        self._values = {name: list(column) for name, column in values.items()}

    def __len__(self) -> int:
        return len(next(iter(self._values.values())))

    def __getitem__(self, name: str) -> list[Any]:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._values)

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return {name: column[index] for name, column in self._values.items()}

    def select(self, indices: Sequence[int]) -> "Columns":
        """Return some of the rows."""
        return Columns({name: [column[index] for index in indices] for name, column in self._values.items()})

    def with_column(self, name: str, values: Sequence[Any]) -> "Columns":
        """Return rows with another value of one column."""
        return Columns({**self._values, name: values})

    @cached_property
    def dataset(self) -> "Dataset":
        """The same rows as a data set."""
        from datasets import Dataset

        return Dataset.from_dict(self._values)
