"""The metrics up to a checkpoint: lines of `metrics.jsonl`, restored from the trainer's history where they differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import TRAINER_STATE
from dgpo.io import finite
from dgpo.lab.runs.files import AFTER, BEFORE, METRICS, TRAIN, read_json
from dgpo.lab.runs.intact import is_step

# What the recorder adds to what the trainer logs; checkpoints of older versions do not hold it.
_ADDED = ("phase", "wall_seconds", "differing_groups")


def history_of(checkpoint: Path) -> list[dict[str, Any]]:
    """Return what the trainer had logged when a checkpoint was written; empty if it cannot be read.

    Args:
        checkpoint: Its folder.

    Returns:
        One mapping a line of metrics.
    """
    state = read_json(checkpoint / TRAINER_STATE)
    history = state.get("log_history") if isinstance(state, dict) else None
    lines = [line for line in history if isinstance(line, dict)] if isinstance(history, list) else []
    return [finite(line) for line in lines if is_step(line.get("step")) and "train_runtime" not in line]


def restored(
    lines: Sequence[dict[str, Any]], history: Sequence[dict[str, Any]], step: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of the metrics up to a step as they must be, and what had to be restored.

    Args:
        lines: What could be read of `metrics.jsonl`.
        history: What the checkpoint of that step holds.
        step: The step.

    Returns:
        The lines in order, each once; a sentence, empty where nothing was amiss.

    Example:
        >>> history = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}]
        >>> restored([{"step": 2, "phase": "train", "loss": 0.2}], history, 2)[1]
        'metrics.jsonl was damaged: 1 of its 2 lines restored from the checkpoint.'
    """
    left = [line for line in lines if line["step"] <= step and line.get("phase") != AFTER]
    if not history:
        return left, ""
    result, missing = [], 0
    for entry in (entry for entry in history if entry["step"] <= step):
        index = next((i for i, line in enumerate(left) if _logged(line) == _logged(entry)), None)
        line = {} if index is None else left.pop(index)
        whole = {"step": entry["step"], "phase": TRAIN} | line | entry
        missing += whole != line
        result.append(line if whole == line else whole)
    # Not in the history: what an older version measured before training, and what was counted since the last log.
    first = [line for line in left if line.get("phase") == BEFORE][:1]
    before = [] if any(line.get("phase") == BEFORE for line in result) else first
    after = [line for line in left if not set(line) - {"step", *_ADDED} and line not in result]
    surplus = len(left) - len(before) - len(after)
    parts = [f"{missing} of its {len(result)} lines restored from the checkpoint"] if missing else []
    parts += [f"{surplus} left out that stood twice or were not logged"] if surplus else []
    return [*before, *result, *after], f"{METRICS} was damaged: {', '.join(parts)}." if parts else ""


def _logged(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in _ADDED}
