"""Loads a model and its tokenizer for evaluation: from a folder, a hub id, or the folder of an adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError
from dgpo.lab.foreign_code import loading_fault, refuse_pickled_adapter, refuse_remote_code
from dgpo.lab.models import quiet_saving, resolve_model

_ADAPTER = "adapter_config.json"
_GENERATES = ("CausalLM", "LMHead", "ForConditionalGeneration")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def named_model(name: str, task_args: Mapping[str, Any] | None = None, *, seed: int = 0, for_vllm: bool = False) -> str:
    """Return the path or hub id of a model: a folder, a hub id, or `forks`, which is made on first use.

    Args:
        name: The name, as every command takes it.
        task_args: Options of the task, of which the model of `forks` follows `num_forks` and `correctness`.
        seed: Of that model.
        for_vllm: Whether vLLM samples, whose attention needs wider heads than that model has otherwise.

    Returns:
        What `from_pretrained` takes.
    """
    if name != "forks":
        return resolve_model(name)
    from dgpo.lab.tasks.forks import warm_up_model

    options = {key: value for key, value in (task_args or {}).items() if key in ("num_forks", "correctness")}
    if for_vllm:
        options["num_heads"] = 2
    return str(warm_up_model(**options, seed=seed))


def adapter_base(model: str) -> str | None:
    """Return the model that an adapter was trained from.

    Args:
        model: A folder or a hub id.

    Returns:
        Its folder or hub id, resolved; `None` where `model` is no folder of an adapter.

    Raises:
        ConfigError: If the adapter names none, or a folder that is not there.
    """
    folder = Path(model)
    if not (folder / _ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    try:
        base = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = None
    if not base:
        raise ConfigError(f"The adapter {model} does not name the model that it belongs to (base_model_name_or_path).")
    return resolve_model(base)


def load_tokenizer(model: str, *, planning: bool = False) -> Any:
    """Return the tokenizer of a model, padding on the left.

    Args:
        model: A folder or a hub id; an adapter without a tokenizer has that of its model.
        planning: Load it without torch where its folder says how; whatever is computed with it asks again.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If it has none.
    """
    folder = Path(model)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER):
        base = adapter_base(model)
        if base is not None:
            return load_tokenizer(base, planning=planning)
        raise ConfigError(
            f"The model folder {model} has no tokenizer (none of {', '.join(_TOKENIZER)}). Copy the tokenizer's files"
            " of the model it was trained from into it."
        )
    refuse_remote_code(f"The model {model}", model)
    try:
        loader = (_named_class(folder) if planning else None) or _automatic_class()
        tokenizer = loader.from_pretrained(model, padding_side="left", trust_remote_code=False)
    except Exception as error:  # whatever the files of somebody's make the libraries raise
        raise ConfigError(loading_fault(f"The tokenizer of {model}", error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


def refuse_unusable_folder(name: str, model: str) -> None:
    """Raise for a model folder that holds no weights that are read, or another kind of model.

    Args:
        name: What messages call the model.
        model: A folder; a hub id passes.

    Raises:
        ConfigError: With what is missing.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    if not any(folder.glob("*.safetensors")):
        pickled = " Weights in .bin are pickles, which run code, and are not read." if any(folder.glob("*.bin")) else ""
        raise ConfigError(f"{name} has no weights: there is no model.safetensors in {folder}.{pickled}")
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        kinds = [str(kind) for kind in kinds]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if kinds and not any(mark in kind for mark in _GENERATES for kind in kinds):
        raise ConfigError(
            f"{name} is a {', '.join(kinds)} (architectures in its config.json), which has no head to generate text "
            "with; take a causal language model, such as a ...ForCausalLM."
        )


def _automatic_class() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer


def _named_class(folder: Path) -> Any:
    """The class that a folder's tokenizer names; None where AutoTokenizer (which loads torch) may choose another."""
    import transformers

    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        name = str(config["tokenizer_class"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    of_library = name.endswith(("Tokenizer", "TokenizerFast")) or name == "TokenizersBackend"
    # Of LlamaTokenizer AutoTokenizer looks into the files.
    if not of_library or name.startswith("LlamaTokenizer") or not (folder / "tokenizer.json").is_file():
        return None
    kind = getattr(transformers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedTokenizerFast) else None


def refuse_foreign_tokens(name: str, tokenizer: Any, vocabulary: int | None, largest: int) -> None:
    """Refuse a token that the model has no embedding for; it would fail inside of the model, without a word.

    Args:
        name: What the message calls the model.
        tokenizer: Its tokenizer.
        vocabulary: Rows of its embedding; None where unknown.
        largest: The largest id that it would be given.

    Raises:
        ConfigError: If the id lies beyond the embedding.
    """
    if vocabulary is None or largest < vocabulary:
        return
    raise ConfigError(
        f"The tokenizer of {name} gives {tokenizer.convert_ids_to_tokens(largest)!r} the id {largest}, and the model "
        f"has embeddings for ids below {vocabulary} only. A token was added without resizing the model: call "
        "model.resize_token_embeddings(len(tokenizer)) and save both, or set the pad token to one that exists "
        "(tokenizer.pad_token = tokenizer.eos_token)."
    )


def load_model(model: str, *, dtype: str = "auto", device: str | None = None) -> Any:
    """Return a causal language model in evaluation mode; an adapter is merged into its model, in float32.

    Args:
        model: A folder or a hub id.
        dtype: `auto` is bfloat16 on a GPU, float32 elsewhere.
        device: Such as `"cuda:1"`; by default a GPU if there is one.

    Returns:
        The model.

    Raises:
        ConfigError: If it cannot be loaded, or there is no such device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _refuse_missing_device(device)
    automatic = torch.bfloat16 if device.startswith("cuda") else torch.float32
    kind = automatic if dtype == "auto" else getattr(torch, dtype)
    base = adapter_base(model)
    if base is not None:
        refuse_pickled_adapter(model)
    refuse_remote_code(f"The model {base or model}", base or model)
    refuse_unusable_folder(f"The model {base or model}", base or model)
    first = torch.float32 if base is not None else kind  # a small change would be rounded away in 16 bits
    try:
        with quiet_saving():
            safe = {"use_safetensors": True, "trust_remote_code": False}
            loaded = AutoModelForCausalLM.from_pretrained(base or model, dtype=first, **safe)
            if base is not None:
                from peft import PeftModel

                loaded = PeftModel.from_pretrained(loaded, model).merge_and_unload()
    except Exception as error:  # whatever the files of somebody's make the libraries raise
        raise ConfigError(loading_fault(f"The model {model}", error)) from error
    return loaded.to(device=device, dtype=kind).eval()


def _refuse_missing_device(device: str) -> None:
    """Raise if the device cannot be used, before a model is loaded: allocate nothing on it."""
    import torch

    try:
        torch.empty(0, device=device)
    # torch raises an AssertionError where it was built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"The device {device!r} cannot be used: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
