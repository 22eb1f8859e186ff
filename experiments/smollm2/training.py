"""Trains one cell through `DGPOTrainer`, or TRL's SDPO, and measures it on held-out questions."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.digests import CORE, digest_of_files, files_in
from experiments.harness import Cell
from experiments.smollm2.questions import Rows, draw, right
from experiments.smollm2.rules import ARMS, BASE, GRPO, HINTS, MODEL, RATES, SDPO, TASKS, TRAINING
from experiments.value_ground_truth.sampling import Continuations, tokens_with

Settings = Mapping[str, Any]
CODE = (
    *CORE,
    "src/dgpo/config.py",
    "src/dgpo/core/totals.py",
    "src/dgpo/engines/hints.py",
    *files_in("src/dgpo/engines/trl"),
    "experiments/smollm2/questions.py",
    "experiments/smollm2/training.py",
    "experiments/value_ground_truth/sampling.py",
    "experiments/value_ground_truth/worked.py",
)
"""What computes a cell: where it changes, cells are computed again. Committed results hold the digest of their code."""
CURVES = {
    "reward": "reward",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "effective_share": "dgpo/effective_share",
    "weight_max": "dgpo/weight/max",
    "hellinger_sq": "dgpo/hellinger_sq/mean",
    "hint_auroc": "dgpo/hint/auroc",
    "hint_size": "dgpo/hint/size",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "length": "completions/mean_length",
}
"""What is recorded of every step, and its key among the trainer's metrics; nan where an arm does not log it."""
_SDPO_CURVES = {"reward": "self_distillation/reward_mean"}


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
    train, held_out = draw(
        options["task"]["dataset"], options["task"]["options"], seed=cell.seed, eval_size=options["eval_size"]
    )
    set_seed(cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(cell, options, train, Path(folder))
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        if cell.rule != BASE:
            trainer.train()
        seconds = time.perf_counter() - started
    steps = [line for line in trainer.state.log_history if "loss" in line]
    keys = CURVES | (_SDPO_CURVES if cell.rule == SDPO else {})
    return {
        "curves": {name: [line.get(key, math.nan) for line in steps] for name, key in keys.items()},
        "correct": _held_out(trainer, held_out, options, 10_000 + cell.seed),
        "seconds_per_step": seconds / max(len(steps), 1),
    }


def trainer_of(cell: Cell, options: Settings, rows: Rows, folder: Path) -> Any:
    """Return the trainer of a cell.

    Args:
        cell: What to train.
        options: Of `settings_of`.
        rows: Questions to train on.
        folder: For the model with its generation's end, and for what the trainer writes.

    Returns:
        A `DGPOTrainer`, or TRL's SDPO.
    """
    from datasets import Dataset
    from peft import LoraConfig

    from dgpo.lab.models import spare_copies_of_the_head

    common = {
        "output_dir": str(folder),
        "max_steps": options["max_steps"],
        "per_device_train_batch_size": options["per_device_train_batch_size"],
        "num_generations": options["num_generations"],
        "max_completion_length": options["max_completion_length"],
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": cell.seed,
        "model_init_kwargs": {"dtype": "bfloat16"},
    }
    model = _ending_with_the_line(options["model"], folder / "model")
    adapters = LoraConfig(
        r=options["lora_r"],
        lora_alpha=2 * options["lora_r"],
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=_last_layers(model, options["lora_layers"]),
        task_type="CAUSAL_LM",
    )
    make = _sdpo if cell.rule == SDPO else _dgpo
    trainer = make(cell, common, model, [right], Dataset.from_list(rows), adapters)
    spare_copies_of_the_head(trainer.model)
    return trainer


def _dgpo(cell: Cell, common: Settings, model: str, rewards: list[Any], rows: Any, adapters: Any) -> Any:
    from dgpo import DGPOConfig, DGPOTrainer

    arm = ARMS[GRPO if cell.rule == BASE else cell.rule]
    assert isinstance(arm.rule, str)
    hint: dict[str, Any] = {}
    if cell.rule in HINTS:
        told, compared = HINTS[cell.rule]
        hint = {"hint": told, "hint_control": compared or "plain", "hint_template": "{hint}"}
    config = DGPOConfig(
        credit_rule=arm.rule,
        credit_options=dict(arm.options),
        loss_type="dapo",
        inert_warning_steps=0,
        **hint,
        **common,
    )
    return DGPOTrainer(model, rewards, config, train_dataset=rows, peft_config=adapters)


def _sdpo(cell: Cell, common: Settings, model: str, rewards: list[Any], rows: Any, adapters: Any) -> Any:
    """TRL's defaults but for the hint: every completion's teacher sees the hinted prompt, as hindsight's reference."""
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    config = SDPOConfig(
        include_environment_feedback=True,
        use_successful_as_teacher=False,
        feedback_template="{feedback_raw}",
        reprompt_template="{feedback}",
        **common,
    )
    return SDPOTrainer(model, rewards, config, train_dataset=rows, peft_config=adapters)


def _ending_with_the_line(model: str, folder: Path) -> str:
    """Return the model in a folder whose generation ends with the line, as its worked examples do."""
    from transformers import AutoTokenizer, GenerationConfig

    from dgpo.lab.models import resolve_model

    source = Path(resolve_model(model))
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ends = {tokenizer.eos_token_id} | tokens_with(tokenizer, "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    GenerationConfig(eos_token_id=sorted(ends)).save_pretrained(folder)
    return str(folder)


def _last_layers(model: str, count: int) -> list[int]:
    from transformers import AutoConfig

    layers = AutoConfig.from_pretrained(model).num_hidden_layers
    return list(range(max(layers - count, 0), layers))


def _held_out(trainer: Any, rows: Rows, options: Settings, seed: int) -> list[int]:
    """How many of `eval_samples` samples at T = 1 are right, per held-out question."""
    copies = options["eval_samples"]
    tokenizer, model = trainer.processing_class, trainer.accelerator.unwrap_model(trainer.model).eval()
    sampler = Continuations(model.get_base_model(), tokenizer, stop="", batch_size=64)
    prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    sampled = sampler.sample(prompts, [options["max_completion_length"]] * len(rows), copies, seed)
    answers = [tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in sampled]
    return [int(sum(right(texts, [row["answer"]] * copies))) for texts, row in zip(answers, rows, strict=True)]


def settings_of(cell: Cell, overrides: Settings) -> dict[str, Any]:
    """Return everything that decides a cell's result.

    Args:
        cell: The cell.
        overrides: In place of values of `rules.TRAINING` and of the task's own.

    Returns:
        The settings; those of the training are left out of a cell that trains nothing.
    """
    task = TASKS[cell.variant]
    training = {**TRAINING, **task.training, **overrides}
    if cell.rule == BASE:
        training["max_steps"] = 0
    training["learning_rate"] *= RATES.get(cell.rule, 1.0)
    arm = ARMS[GRPO if cell.rule == BASE else cell.rule]
    name = cell.rule if cell.rule == SDPO else arm.rule
    rule = {"rule": name, "hint": HINTS.get(cell.rule), "options": dict(arm.options), "digest": arm.digest()}
    questions = {"dataset": task.dataset, "options": asdict(task)["options"]}
    return {"model": MODEL, "task": questions, "rule": rule, **training, "code": digest_of_files(CODE)}
