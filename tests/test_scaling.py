"""docs/scaling.md holds what benchmarks/scaling_arithmetic.py computes, and that computes what it says."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("scaling_arithmetic", ROOT / "benchmarks" / "scaling_arithmetic.py")
scaling = importlib.util.module_from_spec(_spec)
sys.modules["scaling_arithmetic"] = scaling
_spec.loader.exec_module(scaling)


def test_the_document_is_up_to_date() -> None:
    text = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert scaling.filled_in(text) == text, "run: python benchmarks/scaling_arithmetic.py --write"


@pytest.mark.parametrize("scale", ["32b", "7b"])
def test_weights_are_those_of_the_model(scale) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = scaling.SHAPES[scale]
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.mlp, "num_hidden_layers": shape.layers}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    with torch.device("meta"):
        model = Qwen2ForCausalLM(
            Qwen2Config(**sizes, **heads, vocab_size=shape.vocab, tie_word_embeddings=False, use_cache=False)
        )
    assert shape.params == sum(parameter.numel() for parameter in model.parameters())


def test_the_plan_is_the_recipes() -> None:
    plan = scaling.read_plan("32b")
    assert (plan.gpus, plan.prompts, plan.group, plan.pack, plan.max_response) == (128, 512, 16, 22528, 20480)


def test_the_reference_is_a_fifth_of_the_training_operations() -> None:
    """At equal efficiency: one forward pass on top of the old log-probabilities' one and the update's four."""
    seconds = scaling.step_seconds(scaling.read_plan("32b"), 4000)
    assert seconds["reference"] == seconds["old log-probs"]
    update = seconds["update"] * scaling.A.update_mfu / scaling.A.forward_mfu
    assert seconds["reference"] / (seconds["old log-probs"] + update) == pytest.approx(1 / 5)
