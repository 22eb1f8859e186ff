"""The credit of a logged step as a table for Weights & Biases, Trackio or TensorBoard, where they are on."""

import importlib
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from dgpo.credit_log.record import CompletionCredit

TABLE, HISTOGRAM = "dgpo/credit", "dgpo/weights"
_COLUMNS = (
    *("step", "group", "prompt", "answer", "hint", "control", "hint_agreement", "completion", "ended"),
    *("reward", "advantage", "effective_share", "weight_max", "most_credited"),
)
_LISTED, _LONGEST = 5, 2000


def send_tables(
    step: int, completions: Sequence[CompletionCredit], *, trackers: Collection[str], boards: Iterable[Any] = ()
) -> None:
    """Send one row a completion to the trackers that a run reports to, the completions of a prompt together.

    Args:
        step: The step, counted from 1.
        completions: What was logged.
        trackers: Names of the trackers that are on; `"wandb"` and `"trackio"` get the table.
        boards: TensorBoard's `SummaryWriter`s; they get it as text, and the weights as a histogram.
    """
    first = {completion.group: place for place, completion in reversed(list(enumerate(completions)))}
    rows = [_row(step, completion) for completion in sorted(completions, key=lambda one: first[one.group])]
    for name in ("wandb", "trackio"):
        tracker = importlib.import_module(name) if name in trackers else None
        # TRL's own table goes the same way; W&B has no run where another process, or nobody, started one.
        if tracker is not None and (name != "wandb" or tracker.run is not None):
            table = _wandb_table(tracker, rows) if name == "wandb" else _trackio_table(tracker, rows)
            tracker.log({TABLE: table, "train/global_step": step})
    credit = [x for completion in completions for x in completion.credit if x is not None]
    for board in boards:
        board.add_text(TABLE, _markdown(rows), step)
        if credit and "numpy" in sys.modules:
            board.add_histogram(HISTOGRAM, sys.modules["numpy"].asarray(credit), step)


def _wandb_table(wandb: Any, rows: list[dict[str, Any]]) -> Any:
    return wandb.Table(columns=list(_COLUMNS), data=[list(row.values()) for row in rows])


def _trackio_table(trackio: Any, rows: list[dict[str, Any]]) -> Any:
    import pandas as pd

    # As objects: pandas would make NaN of a value that is not known, and floats of the whole numbers beside it.
    return trackio.Table(dataframe=pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object))


def _row(step: int, completion: CompletionCredit) -> dict[str, Any]:
    pairs = zip(completion.credit, completion.tokens, strict=True)
    credited = sorted(((x, token) for x, token in pairs if x is not None), key=lambda pair: abs(pair[0]), reverse=True)
    differ = len({x for x, _ in credited}) > 1  # of equal ones the first say nothing
    values = (
        step,
        completion.group,
        completion.prompt[-_LONGEST:],
        completion.answer,
        completion.hint,
        completion.control,
        completion.hint_agreement,
        _text(completion),
        completion.ended,
        completion.reward,
        completion.advantage,
        completion.effective_share,
        credited[0][0] if credited else None,
        ", ".join(f"{token!r} {x:.2f}" for x, token in credited[:_LISTED]) if differ else "",
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _text(completion: CompletionCredit) -> str:
    """The text of a completion; of a long one the beginning and the end, where the answer is."""
    tokens, head = completion.tokens, completion.head
    gap = [f" [{completion.omitted} tokens left out] "] if completion.omitted else []
    text = "".join([*tokens[:head], *gap, *tokens[head:]])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}"


def _markdown(rows: list[dict[str, Any]]) -> str:
    """A table in which nothing of the completions can pass for markup."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    for row in rows:
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    safe = "".join(c if c.isalnum() or c in " .,'" else f"&#{ord(c)};" for c in text if c.isprintable() or c == "\n")
    return safe.replace("&#10;", " ")
