"""How far merging and unmerging an adapter, as TRL does for each push to vLLM, moves the base model.

    python benchmarks/adapter_pushes.py                      # SmolLM2-135M, which `make smollm2` makes
    python benchmarks/adapter_pushes.py --model PATH --pushes 50

Prints squared Hellinger distances, mean and largest over the tokens of one text: of policies whose adapter is so small
that only rounding tells them from their reference (the noise floor of bfloat16), and of the base model after pushes.
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from dgpo.lab.models import resolve_model
from dgpo.lm_head import lm_head_stats

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEXT = (
    "To add two numbers, write one below the other. 27 + 58: 7 + 8 = 15, write 5 and carry 1; 2 + 5 + 1 = 8. The sum "
    "is 85. Water boils at 100 degrees Celsius at sea level, and at lower temperatures on high mountains, where the "
    "pressure of the air is smaller."
)


def change_adapter(model: torch.nn.Module, size: float, keep: float) -> None:
    """Multiply the adapter's second matrices by `keep` and add random numbers of a size."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.mul_(keep).add_(size * torch.randn(parameter.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--pushes", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    path = resolve_model(options.model)
    ids = AutoTokenizer.from_pretrained(path)(TEXT, return_tensors="pt").input_ids
    for dtype in (torch.bfloat16, torch.float32):
        base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        checkpoint = base.model(input_ids=ids).last_hidden_state[0, :-1]

        def distance(base: torch.nn.Module = base, checkpoint: torch.Tensor = checkpoint) -> str:
            hidden = base.model(input_ids=ids).last_hidden_state[0, :-1]
            d = lm_head_stats(hidden, base.lm_head.weight, ids[0, 1:], ref_hidden=checkpoint).hellinger_sq
            return f"mean {d.mean():.1e}, largest {d.max():.1e}"

        torch.manual_seed(0)
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for size in (1e-7, 1e-6, 1e-5):
            change_adapter(model, size, keep=0.0)
            print(f"{dtype}: adapter of size {size:g}, d(policy, reference): {distance()}", flush=True)
        change_adapter(model, 0.0, keep=0.0)
        for push in range(1, options.pushes + 1):
            change_adapter(model, 1.5e-4, keep=1.0)
            model.merge_adapter()
            model.unmerge_adapter()
            if push in (1, 2, 5, 10, 20, options.pushes):
                with model.disable_adapter():
                    print(f"{dtype}: {push} pushes, d(reference, checkpoint): {distance()}", flush=True)


if __name__ == "__main__":
    main()
