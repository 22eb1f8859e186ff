"""The README that a trained model is saved with: what it was made of, by which rule, and how to load it."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dgpo.versions import __version__

_SETTINGS = (
    *("learning_rate", "num_generations", "temperature", "max_completion_length", "loss_type", "beta"),
    *("num_iterations", "seed"),
)
_PACKAGES = ("trl", "transformers", "torch", "datasets")
_CARD = """---
{header}
---

# {name}

Trained from {base} with [DGPO](https://arxiv.org/abs/2605.03327), Distribution-Guided Policy Optimization: GRPO whose
advantage a credit rule redistributes over the tokens of a completion.

| | |
|---|---|
{rows}

```python
{code}
```

Versions: dgpo {version}, {versions}.
"""
_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{folder}")  # base model and adapter
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


def model_card(trainer: Any, folder: Path, results: Mapping[str, str] | None = None) -> str:
    """Return the card of the model of a trainer.

    Args:
        trainer: A `DGPOTrainer`.
        folder: Where the model is saved.
        results: What was measured, by name; shown first.

    Returns:
        Markdown with the hub's header.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    adapter = hasattr(model, "peft_config")
    source = str((model.peft_config["default"].base_model_name_or_path if adapter else None) or model.name_or_path)
    of_hub = bool(source) and not Path(source).expanduser().exists()
    rule = args.resolve_rule()
    facts = {
        **(results or {}),
        "credit rule": f"`{rule}`",
        "optimizer steps": str(trainer.state.global_step),
        "trained": "an adapter (LoRA)" if adapter else "all weights",
        **{name: f"`{json.dumps(getattr(args, name))}`" for name in _SETTINGS},
    }
    header = {
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": source} if of_hub else {}),
        "pipeline_tag": "text-generation",
        "tags": ["dgpo", "trl", "grpo"],
    }
    return _CARD.format(
        header="\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        name=trainer.hub_model_id or folder.absolute().name,
        base=f"[{source}](https://huggingface.co/{source})" if of_hub else f"`{Path(source).name or 'a new model'}`",
        rows="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        code=(_ADAPTER if adapter else _WHOLE).format(folder=trainer.hub_model_id or folder.absolute().name),
        version=__version__,
        versions=", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    )


class ModelCard:
    """Writes `model_card` where TRL's trainer would write its own, which leaves names of local models out."""

    _tag_names = ["trl", "dgpo"]  # noqa: RUF012  TRL's own attribute
    _name = "DGPO"
    _paper = {  # noqa: RUF012
        "title": "DGPO: Distribution-Guided Policy Optimization for Fine-Grained Credit Assignment",
        "id": "2605.03327",
    }
    args: Any
    is_world_process_zero: Any

    def create_model_card(self, model_name: str | None = None, *unused: Any, **more: Any) -> None:
        """Write `README.md` into the output directory, as TRL does at each checkpoint."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            (folder / "README.md").write_text(model_card(self, folder), encoding="utf-8")
