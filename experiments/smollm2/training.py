"""Trains one cell through `DGPOTrainer` and measures it on held-out questions."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from experiments.digests import CORE, digest_of_files, files_in
from experiments.harness import Cell
from experiments.smollm2.rules import ARMS, BASE, GRPO, MODEL, TASKS, TRAINING

Settings = Mapping[str, Any]
CODE = (
    *CORE,
    "src/dgpo/config.py",
    "src/dgpo/core/totals.py",
    *files_in("src/dgpo/engines/trl"),
    "experiments/smollm2/training.py",
)
"""What computes a cell: where it changes, cells are computed again. Committed results hold the digest of their code."""
CURVES = {
    "reward": "reward",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "kl": "kl",
    "effective_share": "dgpo/effective_share",
    "weight_max": "dgpo/weight/max",
    "hellinger_sq": "dgpo/hellinger_sq/mean",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "length": "completions/mean_length",
}
"""What is recorded of every step, and its key among the trainer's metrics; nan where an arm has no reference."""


def run(cells: Sequence[Cell], settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """Return the result of each cell: curves of the training, and right answers per held-out question.

    Args:
        cells: What to train.
        settings: Those of `settings_of`, one per cell.

    Returns:
        Per cell, `curves` (one list of `max_steps` values per name), `correct` (right answers among `eval_samples`,
        per question), `seconds_per_step`.
    """
    return [_train(cell, options) for cell, options in zip(cells, settings, strict=True)]


def _train(cell: Cell, options: Settings) -> dict[str, Any]:
    from transformers import PrinterCallback, set_seed

    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    task = _task(cell.seed, options)
    set_seed(cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(cell, options, task, folder)
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        if cell.rule != BASE:
            trainer.train()
        seconds = time.perf_counter() - started
    steps = [line for line in trainer.state.log_history if "loss" in line]
    # The sampling of the evaluation is the same whatever the training has drawn.
    set_seed(10_000 + cell.seed)
    return {
        "curves": {name: [line.get(key, math.nan) for line in steps] for name, key in CURVES.items()},
        "correct": _held_out(trainer, task, options),
        "seconds_per_step": seconds / max(len(steps), 1),
    }


def _task(seed: int, options: Settings) -> Any:
    from dgpo.lab.tasks import load_task

    questions = options["task"]
    task = load_task(
        f"reasoning_gym:{questions['dataset']}",
        seed=seed,
        eval_size=options["eval_size"],
        answer_extraction="last_number",
        system_prompt=None,
        **questions["options"],
    )

    def as_text(rows: Any) -> Any:
        prompts = [prompt[0]["content"] + questions["suffix"] for prompt in rows["prompt"]]
        return rows.with_column("prompt", prompts)

    return replace(task, train=as_text(task.train), held_out=task.held_out and as_text(task.held_out))


def _trainer(cell: Cell, options: Settings, task: Any, folder: str) -> Any:
    from peft import LoraConfig

    from dgpo import DGPOConfig, DGPOTrainer
    from dgpo.lab.models import resolve_model

    arm = ARMS[GRPO if cell.rule == BASE else cell.rule]
    assert isinstance(arm.rule, str)
    config = DGPOConfig(
        output_dir=folder,
        credit_rule=arm.rule,
        credit_options=dict(arm.options),
        beta=arm.beta,
        max_steps=options["max_steps"],
        per_device_train_batch_size=options["per_device_train_batch_size"],
        num_generations=options["num_generations"],
        max_completion_length=options["max_completion_length"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type="constant",
        loss_type="dapo",
        temperature=1.0,
        logging_steps=1,
        inert_warning_steps=0,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=cell.seed,
        model_init_kwargs={"dtype": "bfloat16"},
    )
    model = resolve_model(options["model"])
    adapters = LoraConfig(
        r=options["lora_r"],
        lora_alpha=2 * options["lora_r"],
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=_last_layers(model, options["lora_layers"]),
        task_type="CAUSAL_LM",
    )
    trainer = DGPOTrainer(
        model, list(task.reward_funcs), config, train_dataset=task.train_dataset, peft_config=adapters
    )
    # torch multiplies a strided slice of three dimensions with a frozen head by copying the head once per row of the
    # batch: 1.8 GB, and more time than the rest of the prompts' forward pass. A contiguous slice avoids it.
    trainer.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return trainer


def _last_layers(model: str, count: int) -> list[int]:
    from transformers import AutoConfig

    layers = AutoConfig.from_pretrained(model).num_hidden_layers
    return list(range(max(layers - count, 0), layers))


def _held_out(trainer: Any, task: Any, options: Settings) -> list[int]:
    """How many of `eval_samples` samples at T = 1 are right, per held-out question."""
    import torch

    tokenizer, model = trainer.processing_class, trainer.model.eval()
    rows = task.eval_dataset
    correct = [0] * len(rows)
    inputs = tokenizer(
        list(rows["prompt"]), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    for _ in range(options["eval_samples"]):
        with torch.no_grad():
            ids = model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=options["max_completion_length"], pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        answers = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        scores = task.reward_funcs[0](completions=answers, entry=rows["entry"])
        correct = [count + (score is not None and score >= 1.0) for count, score in zip(correct, scores, strict=True)]
    return correct


def settings_of(cell: Cell, overrides: Settings) -> dict[str, Any]:
    """Return everything that decides a cell's result.

    Args:
        cell: The cell.
        overrides: In place of values of `rules.TRAINING`.

    Returns:
        The settings; those of the training are left out of a cell that trains nothing.
    """
    training = {**TRAINING, **overrides}
    if cell.rule == BASE:
        training["max_steps"] = 0
    arm = ARMS[GRPO if cell.rule == BASE else cell.rule]
    rule = {"rule": arm.rule, "options": dict(arm.options), "beta": arm.beta, "digest": arm.digest()}
    settings = {"model": MODEL, "task": asdict(TASKS[cell.variant]), "rule": rule, **training}
    return settings | {"code": digest_of_files(CODE)}
