"""What a model is, beside its name: a hash that changes with everything in its folder that decides completions."""

import hashlib
from pathlib import Path

from dgpo.lab.evaluation.loading import adapter_base

# Configuration, generation settings, tokenizer, chat template, adapter, index of the weights: all of it counts.
_SMALL = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_WEIGHTS = (".safetensors", ".bin", ".gguf")
# What a training run leaves in the folder, and no model reads.
_UNREAD = (
    "checksums.json",
    "trainer_state.json",
    "training_args.bin",
    "optimizer.bin",
    "scheduler.bin",
    "requirements.txt",
)
# Up to here a file is read whole. A checkpoint of 60 GB would take minutes: of larger files, blocks are read that are
# spread evenly, and the time of the last change stands for the rest.
_WHOLE_BYTES = 64 * 2**20
_BLOCKS, _BLOCK_BYTES = 64, 64 * 2**10


def model_fingerprint(model: str) -> str | None:
    """Return a hash that distinguishes a model from others of the same name.

    Small files (configuration, tokenizer, chat template, adapter) are hashed whole, and so are weights up to 64 MiB a
    file. Of larger ones the hash takes the size, the time of the last change and 64 blocks spread over the file; a copy
    of such a model that does not keep the time counts as another one.

    Args:
        model: A folder, or a hub id that was loaded before. Of an adapter, its model is part of it.

    Returns:
        16 hexadecimal digits; for a hub id, `commit` and the commit of the copy on this machine; `None` where there is
        no copy.
    """
    folder = Path(model)
    if not folder.is_dir():
        return _hub_commit(model)
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in _UNREAD):
        if file.suffix in _SMALL or file.suffix in _WEIGHTS:
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            _add(digest, file)
    base = adapter_base(model)
    if base is not None:
        digest.update(f"base {model_fingerprint(base)}".encode())
    return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", file: Path) -> None:
    status = file.stat()
    with file.open("rb") as handle:
        if status.st_size <= _WHOLE_BYTES:
            digest.update(handle.read())
            return
        digest.update(f"{status.st_mtime_ns} ".encode())
        for block in range(_BLOCKS):
            handle.seek(block * (status.st_size - _BLOCK_BYTES) // (_BLOCKS - 1))
            digest.update(handle.read(_BLOCK_BYTES))


def _hub_commit(model: str) -> str | None:
    """The commit of a model in the hub's cache, whose files lie under snapshots/<commit>."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        files = [try_to_load_from_cache(model, name) for name in ("config.json", "adapter_config.json")]
    except HFValidationError:
        return None
    config = next((Path(file) for file in files if isinstance(file, str)), None)
    return None if config is None else f"commit {config.parent.name}"
