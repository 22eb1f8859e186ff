"""What `dgpo.watch` costs: a logged step beside one more forward pass of the logged completions.

    python benchmarks/watching.py                # writes benchmarks/results/watching.json

A model of SmolLM2-135M's shape with random weights, completions of one prompt, all of them logged; the prompt is
short, or about as long as a question of GSM8K with a system prompt. In turns, on one thread: TRL's loss (forward),
the same loss in a logged step with everything that `dgpo.watch` does in it, and TRL's forward pass of the logged
completions without a gradient. What a logged step costs more is divided by the latter, in each round. The hook of a
step that is not logged is timed alone. All in seconds of processor time, which other work on the machine does not
count into.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, ratios, save, spread

SHAPES = {
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}
NONE, MODEL, ADAPTER = "no reference", "TRL's reference model", "adapter switched off"
CASES = (NONE, MODEL, ADAPTER)


def make_trainer(case: str, folder: Path, shape: dict[str, int], count: int, prompt: int, length: int) -> Any:
    """Return a trainer whose completions are random tokens, so that no time goes into sampling."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    class RandomCompletions(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list[Any], *args: Any, **kwargs: Any) -> tuple[Any, None]:
            draw = random.Random(0)
            return [[draw.randrange(3, shape["vocab_size"]) for _ in range(length)] for _ in prompt_ids], None

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not (folder / "model").exists():
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(**shape, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1)
        ).save_pretrained(folder / "model")
    adapter = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if case == ADAPTER else None
    return RandomCompletions(
        LlamaForCausalLM.from_pretrained(folder / "model"),
        lambda completion_ids, **columns: [float(sum(ids) % 7) for ids in completion_ids],
        GRPOConfig(
            output_dir=str(folder / f"{case}-{prompt}".replace(" ", "-")),
            per_device_train_batch_size=count,
            num_generations=count,
            max_completion_length=length,
            beta=0.1 if case == MODEL else 0.0,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["w5 " * prompt] * 8, "answer": ["4"] * 8}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"),
        peft_config=adapter,
    )


def measure(
    case: str, folder: Path, shape: dict[str, int], count: int, prompt: int, length: int, repeats: int
) -> dict[str, Any]:
    """Return seconds of each contender, a round an entry, and what a logged step costs beside one forward pass."""
    from trl import GRPOTrainer

    import dgpo
    from dgpo.engines.trl.watching import Watch

    trainer = make_trainer(case, folder, shape, count, prompt, length)
    dgpo.watch(trainer, every=1, completions=count)
    watch = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Watch))
    trainer.state.max_steps, trainer.current_gradient_accumulation_steps = 10**9, 1
    trainer.model.train()
    inputs = trainer._prepare_inputs([trainer.train_dataset[0]] * count)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)

    def loss() -> None:
        GRPOTrainer._compute_loss(trainer, trainer.model, inputs)

    def logged_step() -> None:
        trainer._compute_loss(trainer.model, inputs)
        trainer.state.global_step += 1
        watch.on_step_end(trainer.args, trainer.state, trainer.control)

    @torch.no_grad()
    def forward() -> None:
        GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, length, compute_entropy=True)

    contenders = {"loss": loss, "logged step": logged_step, "forward": forward}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(1 + repeats):  # the first one is dropped
        for name in contenders if round_ % 2 else reversed(contenders):
            start = time.process_time()
            contenders[name]()
            if round_:
                seconds[name].append(time.process_time() - start)
    assert len(list(watch.log.folder.glob("step-*.jsonl.gz"))) == repeats + 1
    more = [logged - plain for logged, plain in zip(seconds["logged step"], seconds["loss"], strict=True)]
    watch.log.every = 10**9
    watch.log.write(trainer.state.global_step + 1, [])  # from here on, nothing is due
    start = time.process_time()
    for _ in range(1000):
        watch._loss(lambda model, inputs: None, trainer.model, inputs)
    between = (time.process_time() - start) / 1000
    return {
        "seconds": seconds,
        "more_in_a_logged_step": spread(more),
        "forwards_of_the_logged_completions": spread(ratios(seconds | {"more": more}, "more", "forward")),
        "microseconds_between_logged_steps": 1e6 * between,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--tokens", nargs="+", default=["16+64", "96+128"], help="of a prompt and of its completions")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "watching.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, Any]] = {}
        for tokens in options.tokens:
            prompt, length = map(int, tokens.split("+"))
            sizes = (SHAPES[options.shape], options.completions, prompt, length, options.repeats)
            found[tokens] = {case: measure(case, Path(folder), *sizes) for case in CASES}
    result = {
        "what": f"{options.completions} completions of a prompt, all logged, by tokens; float32, {options.shape}",
        "shape": SHAPES[options.shape],
        "tokens": found,
    }
    print(json.dumps(result, indent=2))
    save(options.output, result, "torch", "trl", "transformers", "peft")


if __name__ == "__main__":
    main()
