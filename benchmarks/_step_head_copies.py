"""What copies of a frozen head cost a step of the SmolLM2 recipe on a CPU: `dgpo train` with its hook and without."""

import argparse
import tempfile
import time
from typing import Any
from unittest.mock import patch

from _common import spread

from dgpo import DGPOTrainer
from dgpo.lab.models import spare_copies_of_the_head
from dgpo.lab.train import assemble


def head_copies(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time whole steps (sampling, loss, update) of one training, in which the hook is there at every other step."""
    from dgpo.lab.cli.main import main

    hooks: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {"with the hook": [], "without": []}
    order = [name for round_ in range(arguments.repeats) for name in list(seconds)[:: 1 if round_ % 2 else -1]]
    order.insert(0, "with the hook")  # warms up
    made = iter(order)

    def keep_hook(model: Any) -> None:
        spare_copies_of_the_head(model)
        hooks["of the head"] = model.get_output_embeddings()._forward_pre_hooks
        hooks["all"] = dict(hooks["of the head"])

    def timed_step(trainer: Any, *args: Any, **options: Any) -> Any:
        name = next(made)
        hooks["of the head"].clear()
        hooks["of the head"].update(hooks["all"] if name == "with the hook" else {})
        start = time.perf_counter()
        loss = super(DGPOTrainer, trainer).training_step(*args, **options)
        seconds[name].append(time.perf_counter() - start)
        return loss

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(assemble, "spare_copies_of_the_head", keep_hook),
        patch.object(DGPOTrainer, "training_step", timed_step, create=True),
    ):
        words = ["train", "smollm2-chain-sum", "--max_steps", str(len(order)), "--output_dir", f"{folder}/run"]
        words += ["--eval_before_and_after", "false", "--credit_log_steps", "0", "--save_strategy", "no"]
        words += ["--dtype", arguments.dtype]
        assert main([*words, "--num_threads", str(arguments.threads)]) == 0
    del seconds["with the hook"][0]
    for name, times in seconds.items():
        print(f"{name}: {spread(times)['median']:.2f} s")
    return {name: spread(times) for name, times in seconds.items()}
