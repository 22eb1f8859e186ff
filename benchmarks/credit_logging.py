"""What the credit log costs: seconds per training step with it off, at the recipe's distance, and at every step.

    python benchmarks/credit_logging.py                # writes benchmarks/results/credit_logging.json

The quickstart recipe, cut to a few dozen steps, in runs that take turns (off, every 20th, every, off, ...). The first
steps of each run are left out. Two figures: the mean time of a step, which contains the logged ones in the proportion
they have, and the time of writing a single logged step beside an unlogged one of the same run.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, save

WARM_UP = 20  # steps left out; the last of them is logged at a distance of 20
OFF, RECIPE, ALWAYS = "off", "every 20 steps", "every step"
EVERY = {OFF: 0, RECIPE: 20, ALWAYS: 1}


def run(every: int, steps: int, folder: Path) -> list[float]:
    """Train and return the seconds of each step after the warm-up."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    from dgpo import DGPOConfig, DGPOTrainer
    from dgpo.lab.tasks import load_task
    from dgpo.lab.tasks.forks import warm_up_model

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        # The log is written at the end of a step; the next one's beginning contains it.
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.perf_counter())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.perf_counter())

    task, clock = load_task("forks", seed=0), Clock()
    args = DGPOConfig(
        output_dir=str(folder),
        credit_log_steps=every,
        num_generations=8,
        per_device_train_batch_size=128,
        max_completion_length=30,
        max_steps=steps,
        learning_rate=5e-4,
        adam_beta2=0.95,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = DGPOTrainer(
        str(warm_up_model(seed=0)),
        list(task.reward_funcs),
        args,
        train_dataset=task.train_dataset,
        callbacks=[clock],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    return [b - a for a, b in zip(clock.marks, clock.marks[1:], strict=False)][WARM_UP:]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "credit_logging.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    seconds: dict[str, list[list[float]]] = {name: [] for name in EVERY}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            for name, every in EVERY.items():
                seconds[name].append(run(every, options.steps, Path(folder) / f"{repeat}-{every}"))
    means = {name: [statistics.fmean(values) for values in runs] for name, runs in seconds.items()}
    # Off and on take turns, so that each repeat has its own difference; the median of them is what counts.
    slower = {
        name: [on / off - 1 for on, off in zip(means[name], means[OFF], strict=True)] for name in (RECIPE, ALWAYS)
    }
    # All runs make the same steps with the same completions: single steps can be compared, one by one.
    pairs = [b - a for off, on in zip(seconds[OFF], seconds[ALWAYS], strict=True) for a, b in zip(off, on, strict=True)]
    median_off = statistics.median(x for values in seconds[OFF] for x in values)
    one_log = statistics.median(pairs)
    result = {
        "what": "seconds per step of the quickstart recipe (128 completions of up to 30 tokens, 8 of them logged)",
        "steps_per_run": options.steps - WARM_UP,
        "mean_step_seconds": {name: [round(x, 5) for x in values] for name, values in means.items()},
        "slower_by": {name: [round(x, 4) for x in values] for name, values in slower.items()},
        "slower_by_median": {name: round(statistics.median(values), 4) for name, values in slower.items()},
        "median_step_seconds_off": round(median_off, 5),
        "seconds_of_one_logged_step_median": round(one_log, 5),
        "slower_by_from_single_steps": {
            RECIPE: round(one_log / 20 / median_off, 5),
            ALWAYS: round(one_log / median_off, 5),
        },
    }
    print(json.dumps(result, indent=2))
    save(options.output, result, "torch", "trl", "transformers", "datasets")


if __name__ == "__main__":
    main()
