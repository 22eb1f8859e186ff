"""Pushes of an adapter to vLLM leave the reference where it was: TRL's own iteration, without an engine."""

from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from support import lora
from transformers import AutoModelForCausalLM
from trl.generation.vllm_generation import VLLMGeneration

from dgpo.engines.trl.base_weights import keep_base_weights


@pytest.mark.parametrize("kept", [True, False])
def test_fifty_pushes_change_no_bit_of_the_base_model(checkpoint, kept, accelerator):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16), lora())
    generation = object.__new__(VLLMGeneration)  # its constructor starts vLLM
    generation.model, generation._dist = model, accelerator_backend(accelerator)
    trainer = SimpleNamespace(use_vllm=True, model=model, accelerator=accelerator, vllm_generation=generation)
    if kept:
        keep_base_weights(trainer)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" not in name}
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        pushed = {}
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.add_(0.05 * torch.randn(p.shape, generator=generator))
        for name, weight in generation._iter_named_params():
            pushed[name] = weight.detach().clone()
    after = dict(model.named_parameters())
    changed = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    assert (len(changed) == 0) == kept
    layer = "model.layers.0.self_attn.q_proj.weight"
    base = before["base_model.model." + layer.replace("q_proj", "q_proj.base_layer")]
    assert not torch.equal(pushed[layer], base)  # what vLLM gets is still the sum


@pytest.fixture
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def accelerator_backend(accelerator):
    from trl.generation.vllm_generation import DistributedBackend

    return DistributedBackend(accelerator)
