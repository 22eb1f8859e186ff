"""Where a model comes from (a folder, the model hub, a copy made on this machine), and what it needs on a CPU."""

import functools
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DgpoError
from dgpo.lab.foreign_text import say

PREPARED_BY = {"HuggingFaceTB/SmolLM2-135M-Instruct": "make smollm2"}
"""Hub ids of which a command makes a copy on this machine, and that command."""


def cache_dir() -> Path:
    """Return the folder for models made on this machine: `$DGPO_CACHE`, else `~/.cache/dgpo`.

    Returns:
        An absolute path; the folder need not exist yet.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    return Path(os.environ.get("DGPO_CACHE") or Path.home() / ".cache" / "dgpo").expanduser().absolute()


def prepared_path(name: str) -> Path:
    """Return the folder where a copy of a hub's model lies, if one was made on this machine.

    Args:
        name: A hub id.

    Returns:
        A path below `cache_dir()`; the folder need not exist.

    Example:
        >>> prepared_path("owner/name").name
        'owner--name'
    """
    return cache_dir() / "models" / name.replace("/", "--")


def resolve_model(name: str) -> str:
    """Return what to load for a model name: a folder on this machine, or the hub id itself.

    In this order: an existing folder; a hub id whose files the Hugging Face cache holds; a prepared copy in the
    cache (a line on the standard error says so); the hub id, which transformers then downloads, unless there is a
    folder with the name of its owner here: a folder is meant then.

    Args:
        name: A folder, or a hub id such as `"HuggingFaceTB/SmolLM2-135M-Instruct"`.

    Returns:
        A path or a hub id for `from_pretrained`.

    Raises:
        ConfigError: If `name` can only be a path and there is no such folder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> resolve_model(folder) == folder
        True
    """
    path = Path(name).expanduser()
    if name and os.path.isdir(path):
        return str(path)
    if name and os.path.isfile(path):
        raise ConfigError(f"model {name!r} is a file; give the folder that holds config.json and model.safetensors.")
    if (url := re.fullmatch(r"https?://[^/]+/([^/]+/[^/?#]+).*", name)) is not None:
        raise ConfigError(f"model {name!r} is an address; a model of the hub is named by its id: {url[1]}.")
    if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"model {name!r}: there is no such folder. Give a folder with config.json and model.safetensors, or a "
            "hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        )
    if _in_hub_cache(name):
        return name
    prepared = prepared_path(name)
    if os.path.isdir(prepared):
        _say_that_it_is_a_copy(name, prepared)
        return str(prepared)
    if "/" in name and os.path.isdir(path.parent):
        raise ConfigError(
            f"model {name!r}: there is a folder {path.parent} here, and no folder {path.name} in it. If a model of the "
            f"hub is meant, download it first (`hf download {name}`), or run where there is no such folder."
        )
    return name


@functools.cache  # once a process
def _say_that_it_is_a_copy(name: str, prepared: Path) -> None:
    say(
        f"{name}: using the copy in {prepared}, whose weights were dequantized from 4 bits and so differ a little "
        "from the original's.",
        sys.stderr,
    )


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` unless it is there already.

    `build` writes into a temporary folder that is renamed when it is done, so `folder` is whole or absent. Processes
    that call it at the same time wait for the first one.

    Args:
        folder: The folder wanted.
        build: Called with an empty folder to fill.

    Returns:
        `folder`.

    Raises:
        DgpoError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> wanted = Path(tempfile.mkdtemp()) / "greeting"
        >>> (build_once(wanted, lambda folder: (folder / "a.txt").write_text("hi") and None) / "a.txt").read_text()
        'hi'
    """
    from filelock import FileLock
    from safetensors import SafetensorError

    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The operating system drops the lock of a process that dies, so a leftover file blocks no other.
        with FileLock(folder.parent / f".{folder.name}.lock"):
            for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
                if left.is_dir():  # of a process that was killed while it built: under the lock, none is at work
                    shutil.rmtree(left, ignore_errors=True)
            if not folder.is_dir():
                _build_beside(folder, build)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # transformers raises an OSError without a number for a model that it cannot read
        reason = getattr(error, "strerror", None) or error
        raise DgpoError(
            f"cannot write {folder}: {reason}. Free some space there, or name another folder in the environment "
            "variable DGPO_CACHE."
        ) from error
    return folder


@contextmanager
def quiet_saving() -> Iterator[None]:
    """Keep transformers' own progress bars off while a model of one shard is read or written.

    Example:
        >>> with quiet_saving():
        ...     pass
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _build_beside(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        build(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are private; a cache may be shared
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _in_hub_cache(name: str) -> bool:
    """Whether configuration and weights are both there: an interrupted download leaves only the first."""
    from huggingface_hub import constants, try_to_load_from_cache

    def holds(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE), str)

    try:
        return holds("config.json") and (holds("model.safetensors") or holds("model.safetensors.index.json"))
    except ValueError as error:
        raise ConfigError(f"model {name!r} is neither a folder nor a valid hub id: {error}") from error


def spare_copies_of_the_head(model: Any) -> None:
    """Give a frozen head on a CPU contiguous hidden states.

    torch multiplies a strided slice of three dimensions, which `generate` makes of the prompts' hidden states, with a
    head without gradient by copying the head once per row of the batch.

    Args:
        model: Of the trainer, with an adapter or without.
    """
    head = model.get_output_embeddings()
    if head is not None and head.weight.device.type == "cpu" and not head.weight.requires_grad:
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
