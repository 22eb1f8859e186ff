"""A model, data, rewards and completions small and fixed enough to compare two trainers parameter by parameter."""

import copy
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import dgpo
from dgpo import DGPOConfig, DGPOTrainer

WORDS = ["<pad>", "<eos>", "<bos>", *"abcdefghijklmnopqrst"]
EOS = 1


def make_checkpoint(folder: Path, *, seed: int = 0, **changes: Any) -> str:
    """A two-layer Llama over 23 words with its tokenizer, saved to `folder`."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "bos_token_id": 2,
        "tie_word_embeddings": True,
    }
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    make_tokenizer(WORDS).save_pretrained(folder)
    return str(folder)


def make_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "padding_side": "left"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def make_dataset(rows: int = 64) -> Dataset:
    rng = random.Random(0)
    prompts = [" ".join(rng.choices(WORDS[3:], k=rng.randint(3, 6))) for _ in range(rows)]
    return Dataset.from_dict({"prompt": prompts})


def answered(rows: int = 64, column: str = "answer") -> Dataset:
    """The same prompts with a gold answer: their first word."""
    data = make_dataset(rows)
    return data.add_column(column, [prompt.split()[0] for prompt in data["prompt"]])


def spread_reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Depends on the completion only, and is rarely equal within a group."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def mostly_dead_reward(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """`spread_reward` for a third of the prompts; those of the others are equal, so that the advantages are 0."""
    live = [prompt < "g" for prompt in prompts]
    return [value if alive else 0.5 for value, alive in zip(spread_reward(completion_ids), live, strict=True)]


class FixedCompletions:
    """Completions that depend on nothing but (call number, global row): the same for every trainer and world size."""

    generation_calls = 0

    def _generate_single_turn(self, prompt_ids: list, *args: Any, **kwargs: Any) -> tuple:
        self.generation_calls += 1
        completions = []
        for row in range(len(prompt_ids)):
            rng = random.Random(1000 * self.generation_calls + self.accelerator.process_index * len(prompt_ids) + row)
            completion = [rng.randrange(3, len(WORDS)) for _ in range(rng.randrange(4, 12))] + [EOS]
            completions.append(completion[: self.max_completion_length])
        return completions, None


class FixedDGPOTrainer(FixedCompletions, DGPOTrainer):
    pass


class FixedGRPOTrainer(FixedCompletions, GRPOTrainer):
    pass


class Recorder(TrainerCallback):
    """Keeps the gradients before each update and everything that is logged."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.logs: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        grads = [p.grad.detach() for p in model.parameters() if p.grad is not None]
        grads = [(g.full_tensor() if isinstance(g, DTensor) else g).flatten().clone() for g in grads]
        self.gradients.append(torch.cat(grads))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    @property
    def steps(self) -> list[dict[str, float]]:
        return [entry for entry in self.logs if "reward" in entry]


def make_trainer(
    trainer_class: type,
    checkpoint: str,
    output_dir: Path,
    *,
    perturb: float = 0.0,
    model: Any = None,
    peft_config: Any = None,
    reward: Any = spread_reward,
    callbacks: tuple = (),
    dtype: torch.dtype = torch.float32,
    tokenizer: Any = None,
    after_config: Any = None,
    rows: int = 64,
    dataset: Dataset | None = None,
    **options: Any,
) -> Any:
    """A trainer of either kind. SGD without clipping by default: Adam would hide a wrong normaliser of the loss."""
    defaults: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    is_dgpo = issubclass(trainer_class, DGPOTrainer)
    args = (DGPOConfig if is_dgpo else GRPOConfig)(**{**defaults, **options})
    if after_config is not None:
        after_config()
    model = model if model is not None else AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    if perturb:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(perturb * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    recorder = Recorder()
    trainer = trainer_class(
        model,
        reward,
        args,
        train_dataset=dataset or make_dataset(rows),
        processing_class=tokenizer or AutoTokenizer.from_pretrained(checkpoint),
        peft_config=copy.deepcopy(peft_config),
        callbacks=[recorder, *callbacks],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.recorder = recorder
    return trainer


def train_watched(
    checkpoint: str,
    folder: Path,
    *,
    watched: dict | None = None,
    trainer_class: type = FixedGRPOTrainer,
    **options: Any,
) -> Any:
    """Train with TRL's GRPO, and with `dgpo.watch` if its arguments are given."""
    trainer = make_trainer(trainer_class, checkpoint, folder, dataset=answered(), **options)
    if watched is not None:
        dgpo.watch(trainer, **watched)
    trainer.train()
    return trainer


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")


def parameters(trainer: Any) -> torch.Tensor:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return torch.cat([p.detach().flatten().float() for p in model.parameters()])


def loss_inputs(batch: int = 4, prompt_length: int = 5, length: int = 20) -> dict[str, torch.Tensor]:
    """Inputs of the loss, made by hand: completions of 20, 7, 1 and 13 tokens."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, len(WORDS), (batch, prompt_length + length), generator=generator)
    lengths = torch.tensor([20, 7, 1, 13])
    return {
        "prompt_ids": ids[:, :prompt_length],
        "prompt_mask": torch.ones(batch, prompt_length, dtype=torch.long),
        "completion_ids": ids[:, prompt_length:],
        "completion_mask": (torch.arange(length) < lengths[:, None]).long(),
        "advantages": torch.tensor([1.0, -0.5, 2.0, -1.0]),
        "num_items_in_batch": torch.tensor(41.0),
    }


class KillAfterCheckpoint(TrainerCallback):
    """Kills its own process, as a scheduler would: one step after the checkpoint, without a chance to clean up.

    The first rank says by a marker that it is there, and the others wait for it: one that died while the first still
    read the last bytes of a collective would give it an error to die of instead.
    """

    def __init__(self, step: int, marker: Path) -> None:
        self.step, self.marker = step, marker

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step != self.step:
            return
        if args.process_index == 0:
            self.marker.touch()
        while not self.marker.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
