"""Code that a model's repository ships, or that a file of somebody's runs as it is loaded: never run here."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError

_REASONS = {
    "trust_remote_code": "it runs code that a model's repository ships; use a model that transformers implements",
    "code_revision": "it belongs to code that a model's repository ships, which is not run",
    "custom_generate": "it runs code that a model's repository ships; the sampling here is transformers' own",
    "allow_all_kernels": "it runs compiled code of anybody's from the hub; leave it out",
    "kernel_config": "it names compiled code on the hub that would be run; leave it out",
    "use_safetensors": "without safetensors, weights are a pickle, which runs code as it is loaded; convert them with "
    "`model.save_pretrained(folder)`",
    "weights_only": "without it a pickle runs code as it is loaded; leave it out",
    "load_format": "weights of this format are a pickle, which runs code as it is loaded; convert them to safetensors",
}
_MUST_BE_ON = ("use_safetensors", "weights_only")
_PICKLES = ("pt", "npcache")
_VOUCHED = "kernels-community/"
"""Kernels of the organisation that transformers itself loads from without asking."""


def refused_options(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every option that would run foreign code, however deep it lies.

    Args:
        values: Settings by name: of a recipe, of vLLM.

    Yields:
        tuple[str, str]: Dotted name and reason.

    Example:
        >>> list(refused_options({"model_init_kwargs": {"allow_all_kernels": True, "use_safetensors": True}}))
        [('model_init_kwargs.allow_all_kernels', "it runs compiled code of anybody's from the hub; leave it out")]
    """
    for name, value in values.items():
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _json(value)  # transformers takes JSON for a mapping
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", reason) for inner, reason in refused_options(value))
        if _runs_code(str(name).replace("-", "_"), value):
            yield str(name), _REASONS.get(str(name).replace("-", "_"), _REASONS["allow_all_kernels"])


def _runs_code(name: str, value: Any) -> bool:
    if name == "attn_implementation":
        kernels = value.values() if isinstance(value, Mapping) else [value]
        named = (str(kernel).rpartition("|")[2] for kernel in kernels)  # "paged|owner/kernel"
        return any("/" in kernel and not kernel.startswith(_VOUCHED) for kernel in named)
    if name == "load_format":
        return str(value).lower() in _PICKLES
    if name in _MUST_BE_ON:
        return value is not None and value is not True
    return name in _REASONS and value not in (None, False)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def refuse_remote_code(name: str, model: str) -> None:
    """Raise for a model folder that can only be loaded by running code of its own, before anything asks about it.

    Args:
        name: What messages call the model.
        model: A folder; a hub id passes, and `loading_fault` explains what transformers refuses then.

    Raises:
        ConfigError: If transformers does not implement the model, and its configuration names code.
    """
    config = _read(Path(model) / "config.json")
    if not config.get("auto_map"):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise ConfigError(_needs_code(name))


def refuse_pickled_adapter(model: str) -> None:
    """Raise for the folder of an adapter whose weights are a pickle.

    Args:
        model: A folder.

    Raises:
        ConfigError: If there are no weights in safetensors.
    """
    folder = Path(model)
    if (folder / "adapter_model.safetensors").is_file():
        return
    if (folder / "adapter_model.bin").exists():
        raise ConfigError(
            f"The adapter {model} has its weights in adapter_model.bin, a pickle, which runs code as it is loaded; it "
            "is not read. Save the adapter with safetensors (peft does by default), from where you trust the file."
        )
    raise ConfigError(f"The adapter {model} has no weights: there is no adapter_model.safetensors in it.")


def loading_fault(name: str, error: BaseException) -> str:
    """Return in one line why a model or tokenizer cannot be loaded.

    Args:
        name: What messages call it.
        error: What a library raised.

    Returns:
        A sentence; never the advice to switch a protection off.
    """
    text = str(error).strip()
    if "trust_remote_code" in text or "custom code" in text:
        return _needs_code(name)
    if "weights_only" in text or type(error).__name__ == "UnpicklingError":
        return f"{name} cannot be loaded: a file of it is a pickle, which runs code as it is loaded; it is not read."
    first = text.split("\n")[0] or type(error).__name__
    kind = "" if isinstance(error, (OSError, ValueError, RuntimeError, ImportError)) else f"{type(error).__name__}: "
    return f"{name} cannot be loaded: {kind}{first}"


def _needs_code(name: str) -> str:
    return (
        f"{name} can only be loaded with code of its own repository (auto_map), which is never run here; take a model "
        "that transformers implements, or a version of it without such code."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
