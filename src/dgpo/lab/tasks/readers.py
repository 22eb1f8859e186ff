"""Rows of local files and of data sets of the hub, with errors that name the file and the line."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo.errors import DataError
from dgpo.names import did_you_mean

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows from anywhere.

    Attributes:
        name: What error messages call it.
        columns: Its columns, in order.
        num_rows: How many rows.
        rows: Called with the columns wanted, gives the rows; a column that a row lacks is `None`.
    """

    name: str
    columns: tuple[str, ...]
    num_rows: int
    rows: Callable[[Sequence[str]], Iterable[Row]]


def read_file(path: Path) -> Table:
    """Return the rows of a local file.

    The text formats are read here rather than by `datasets`, which neither names the line that is malformed nor leaves
    the texts of a CSV file as they are.

    Args:
        path: A file of `FORMATS`.

    Returns:
        Its rows, at least one.

    Raises:
        DataError: If the file is missing, empty, unreadable, malformed or of another format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sums.jsonl"
        >>> _ = path.write_text('{"problem": "1 + 1", "answer": 2}')
        >>> table = read_file(path)
        >>> table.columns, list(table.rows(["answer"]))
        (('problem', 'answer'), [{'answer': 2}])
    """
    if not os.path.isfile(path):  # False for names that are too long, or none
        raise DataError(_missing(path))
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: cannot read files of this kind; these can be read: {', '.join(FORMATS)}.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
        table = FORMATS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): convert it first.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if table.num_rows == 0:
        raise DataError(f"{path} is empty: it holds no row.")
    return table


def read_hub(name: str, config: str | None, split: str) -> Table:
    """Return the rows of one split of a data set of the hub, through `datasets` and its cache.

    Args:
        name: Its id, `owner/name`.
        config: One of its configurations, `None` for the only one.
        split: One of its splits, such as `"train"`.

    Returns:
        Its rows, at least one.

    Raises:
        DataError: If it is not on the hub, the hub is out of reach, or it has no such configuration or split.
    """
    from datasets import load_dataset

    try:
        # No code of the data set's authors runs: `datasets` 4 and later read data files only.
        dataset = load_dataset(name, config, split=split)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        advice = "give a local file instead (task: path/to/file.parquet)"
        if isinstance(error, ConnectionError):
            raise DataError(
                f"data set {name!r}: the hub is out of reach ({reason}). Download it where there is a connection, then "
                f"{advice}."
            ) from error
        raise DataError(
            f"data set {name!r}, configuration {config!r}, split {split!r}: {reason}. Check these names, or {advice}."
        ) from error
    if dataset.num_rows == 0:
        raise DataError(f"data set {name!r} is empty: its split {split!r} holds no row.")
    columns = tuple(dataset.column_names)
    return Table(f"data set {name!r}", columns, dataset.num_rows, lambda wanted: dataset.select_columns(list(wanted)))


def _missing(path: Path) -> str:
    if os.path.isdir(path):
        return f"{path} is a folder; name a file in it."
    if not os.path.isdir(path.parent):
        return f"{path} does not exist, nor does its folder {path.parent}."
    files = [file.name for file in path.parent.iterdir() if file.suffix.lower() in FORMATS]
    return f"{path} does not exist.{did_you_mean(path.name, files)} (Looked in {path.parent.absolute()}.)"


def _in_memory(path: Path, rows: Sequence[Row]) -> Table:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(str(path), columns, len(rows), lambda wanted: ({key: row.get(key) for key in wanted} for row in rows))


def _read_json_lines(path: Path) -> Table:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_json_row(path, number, line))
    return _in_memory(path, rows)


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: not JSON: {error}. Each line must be one JSON object.") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: a JSON {type(row).__name__}; each line must be one JSON object.")
    return row


def _read_json(path: Path) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] != "[":
        # Many files called .json hold JSON lines.
        return _read_json_lines(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{where}: not JSON: {error}.") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, element {number} of the list: a JSON {type(row).__name__}; it must be an object.")
    return _in_memory(path, rows)


def _read_csv(path: Path) -> Table:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}, line {reader.line_num}: more values than the first line has columns "
                        f"({len(reader.fieldnames or [])}). Quote values that hold a comma."
                    )
                rows.append(row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error
    return _in_memory(path, rows)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a parquet file: {error}.") from error

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(columns=list(wanted)):
                for row in batch.to_pylist():
                    yield row
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = "a text is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).split("\n")[0]
            raise DataError(f"{path} is damaged after row {number}: {reason}. Write the file anew.") from error

    return Table(str(path), names, file.metadata.num_rows, rows)


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""What reads a file of each ending."""
