"""Keeps adapters of SmolLM2 on its way through a GRPO training, for `experiments.value_ground_truth` to measure.

`python -m experiments.smollm2.checkpoint --task sums --steps 6,12` writes the folders `step-6` and `step-12`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.harness import CACHE, Cell
from experiments.smollm2.questions import draw
from experiments.smollm2.rules import GRPO, MODEL
from experiments.smollm2.training import Settings, settings_of, trainer_of
from experiments.value_ground_truth.worked import WORKED


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and keep the adapter after some of the steps.

    Args:
        arguments: Of the command line by default.

    Returns:
        0.
    """
    options = _options(arguments)
    cell = Cell("sums", GRPO, options.seed)
    settings = settings_of(cell, {"max_steps": max(options.steps)}) | {
        "task": {"dataset": options.task, "options": {}},
        "model": options.model,
    }
    folder = options.out or CACHE / "smollm2-checkpoints" / f"{options.task}-seed{options.seed}"
    for kept in keep(cell, settings, options.steps, folder):
        print(kept)
    return 0


def keep(cell: Cell, settings: Settings, steps: Sequence[int], folder: Path) -> list[Path]:
    """Train a cell and keep its adapter after some of the steps.

    Args:
        cell: What to train.
        settings: Of `settings_of`.
        steps: After which the adapter is kept.
        folder: For the adapters.

    Returns:
        The folder of each.
    """
    from transformers import PrinterCallback, TrainerCallback, set_seed

    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    task = settings["task"]
    train, _ = draw(task["dataset"], task["options"], seed=cell.seed, eval_size=settings["eval_size"])
    set_seed(cell.seed)
    kept = {step: folder / f"step-{step}" for step in sorted(steps)}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(cell, settings, train, Path(scratch))
        adapters = trainer.accelerator.unwrap_model(trainer.model)
        # The trainer's is a copy in a folder that is about to go.
        adapters.peft_config["default"].base_model_name_or_path = settings["model"]

        class Keep(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
                step = trainer.state.global_step
                print(f"step {step} of {settings['max_steps']}", file=sys.stderr)
                if step in kept:
                    adapters.save_pretrained(kept[step])
                    trainer.processing_class.save_pretrained(kept[step])

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Keep())
        trainer.train()
    return list(kept.values())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains SmolLM2 by GRPO as python -m experiments.smollm2 does, and keeps its adapter on the way: "
        "python -m experiments.value_ground_truth --model FOLDER/step-12 --reference MODEL then measures where value "
        "changes, and which signals know it, in a model that has learnt."
    )
    parser.add_argument("--task", choices=list(WORKED), default="sums", help="what it learns; sums by default")
    parser.add_argument("--steps", type=_steps, default=(6, 12), help="after which it is kept; 6,12 by default")
    parser.add_argument("--seed", type=int, default=0, help="of the questions and the sampling")
    parser.add_argument("--model", default=MODEL, help=f"folder or hub id; {MODEL} by default")
    parser.add_argument("--out", type=Path, help="folder of the adapters; below runs/experiments by default")
    return parser.parse_args(arguments)


def _steps(text: str) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} names no steps; use numbers from 1 on by commas, such as 6,12.")
    return steps


if __name__ == "__main__":
    sys.exit(main())
