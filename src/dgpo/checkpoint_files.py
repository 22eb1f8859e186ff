"""Which checkpoints of a folder are whole: checksums of all files, written last, and what older versions left instead.

Standard library alone: the trainer writes checksums, and `dgpo train --resume` compares them before anything is loaded.
"""

import functools
import hashlib
import json
import os
import re
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo.io import write_atomically

CHECKPOINTS, TRAINER_STATE, CHECKSUMS = "checkpoint-*", "trainer_state.json", "checksums.json"
STATE_FOLDER = "dgpo_state"
PROMISE = "has_checksums"
"""Key of the metadata in `dgpo_state/`: the version that wrote it closes a checkpoint with checksums."""

_SKIPPED = (".tmp", ".partial")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run directory.

    Attributes:
        newest: The newest one that is whole, or `None`.
        step: Its step; 0 without one.
        incomplete: Name and fault of those that are newer and cannot be used.
    """

    newest: Path | None = None
    step: int = 0
    incomplete: dict[str, str] = field(default_factory=dict)


def find_checkpoints(directory: Path, *, weights_alone: bool = False, quick: bool = False) -> Checkpoints:
    """Return the newest whole checkpoint of a run directory, and the damaged ones that are skipped.

    Args:
        directory: The run directory, with folders `checkpoint-<step>`.
        weights_alone: Whether one without optimizer and random states will do (`save_only_model`).
        quick: Whether lengths are enough, for a message.

    Returns:
        `newest` is `None` if no checkpoint is whole.

    Example:
        >>> find_checkpoints(Path("/nowhere")).newest is None
        True
    """
    steps = {}
    for path in directory.glob(CHECKPOINTS):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            steps[int(match[1])] = path
    incomplete: dict[str, str] = {}
    for step in sorted(steps, reverse=True):
        fault = checkpoint_fault(steps[step], step, weights_alone=weights_alone, quick=quick)
        if fault is None:
            return Checkpoints(steps[step], step, incomplete)
        incomplete[steps[step].name] = fault
    return Checkpoints(incomplete=incomplete)


def checkpoint_fault(path: Path, step: int, *, weights_alone: bool = False, quick: bool = False) -> str | None:
    """Return why a checkpoint cannot be continued from, or `None` if it is whole.

    With checksums, every file must be as it was written. Without them (an older version wrote it), what is there must
    be complete: archives of torch carry checksums of their own, safetensors their length.

    Args:
        path: The checkpoint's folder.
        step: Its step.
        weights_alone: Whether optimizer and random states may be absent.
        quick: Whether to compare lengths alone, and read no large file.

    Returns:
        A part of a sentence.
    """
    try:
        return _changed(path, quick) or _incomplete(path, step, weights_alone)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a checkpoint, which closes it; all of it is on the disk when this returns.

    Args:
        folder: The checkpoint, complete but for this file.

    Raises:
        OSError: If a file cannot be read, or this one cannot be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _SKIPPED)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    names.pop(CHECKSUMS, None)
    sums = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path, sync=True)} for name, path in names.items()}
    text = json.dumps({"files": sums}, indent=1) + "\n"
    write_atomically(folder / CHECKSUMS, text, sync=True)


def _sha256(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known_sha256(path: Path) -> str:
    """The sum of a file, read once in a process: `dgpo train --resume` asks for it, and then the trainer."""
    facts = path.stat()
    return _sha256_of(path.resolve(), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@functools.cache
def _sha256_of(path: Path, *_facts: int) -> str:
    return _sha256(path)


def _changed(path: Path, quick: bool) -> str | None:
    """What differs from the checksums; where there are none, whether there should be."""
    if not (path / CHECKSUMS).exists():
        if any(_state_facts(file).get(PROMISE) for file in (path / STATE_FOLDER).glob("rank_*.safetensors")):
            return f"{CHECKSUMS}, which is written last, is missing"
        return None
    sums = _json(path / CHECKSUMS)
    files = sums.get("files") if isinstance(sums, dict) else None
    if not isinstance(files, dict) or not files:
        return f"{CHECKSUMS} is damaged"
    for name, expected in files.items():
        file = path / name
        if not isinstance(expected, dict):
            return f"{CHECKSUMS} is damaged"
        if not file.is_file():
            return f"{name} is missing"
        size = file.stat().st_size
        if size != expected.get("bytes"):
            return f"{name} has {size} bytes, and {expected.get('bytes')} were written"
    # Lengths first: most faults are found without reading everything.
    wrong = (
        [] if quick else [name for name, facts in files.items() if _known_sha256(path / name) != facts.get("sha256")]
    )
    others = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
    return f"{wrong[0]}{others} is not what was written" if wrong else None


def _incomplete(path: Path, step: int, weights_alone: bool) -> str | None:
    state = _json(path / TRAINER_STATE)
    if not isinstance(state, dict):
        return f"{TRAINER_STATE} is {'damaged' if (path / TRAINER_STATE).exists() else 'missing'}"
    if state.get("global_step") != step:
        return f"{TRAINER_STATE} is of step {state.get('global_step')}"
    sharded = any(path.glob("pytorch_model_fsdp*")) or any(path.glob("global_step*"))
    if not any(path.glob("*.safetensors")) and not sharded:
        return "it holds no weights in safetensors"
    if not weights_alone and not sharded:
        for name in ("optimizer.pt", "scheduler.pt"):
            if not (path / name).is_file():
                return f"{name} is missing (was save_only_model set?)"
    if not weights_alone and not any(path.glob("rng_state*.pth")):
        return "the state of the random number generators is missing"
    return None if (path / CHECKSUMS).exists() else _torn(path)


def _torn(path: Path) -> str | None:
    """The first file that is not whole, as far as files say so themselves."""
    for file in sorted([*path.glob("*.safetensors"), *(path / STATE_FOLDER).glob("*.safetensors")]):
        if not _whole_safetensors(file):
            return f"{file.relative_to(path)} is cut off"
    for file in sorted([*path.glob("*.pt"), *path.glob("*.pth")]):
        if not _whole_archive(file):
            return f"{file.name} is damaged"
    return None


def _whole_archive(path: Path) -> bool:
    """Whether a file of `torch.save` is a whole archive whose parts have their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError):
        return False


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        return length, dict(json.loads(file.read(length)))


def _whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header requires."""
    try:
        length, header = _header(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, struct.error):
        return False


def saved_layout(path: Path) -> dict[str, Any]:
    """Return the numbers of processes, batches and so on that a checkpoint was written with; empty where unknown.

    Args:
        path: The checkpoint's folder.

    Returns:
        As the trainer wrote them.
    """
    layout = _state_facts(path / STATE_FOLDER / "rank_0.safetensors").get("layout")
    return layout if isinstance(layout, dict) else {}


def _state_facts(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_header(path)[1]["__metadata__"]["dgpo"]))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
