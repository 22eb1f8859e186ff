"""Whole steps of recipes as they are (sampling, rewards, loss, update), where something is on and off in turns."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from _common import spread

from dgpo import DGPOTrainer
from dgpo.engines.trl.held_out import HeldOutRewards
from dgpo.engines.trl.live import LiveRows
from dgpo.lab.models import spare_copies_of_the_head
from dgpo.lab.train import assemble

QUICKSTART_STEPS = 20  # of each way and repeat: they are short
JUDGE_SECONDS = 5.0  # that rewards wait in `overlap`
Switch = Callable[[Any, bool], None]


def head_copies(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the SmolLM2 recipe on a CPU with the hook of `dgpo train` that spares copies of the head, and without."""
    hooks: dict[str, Any] = {}

    def keep_hook(model: Any) -> None:
        spare_copies_of_the_head(model)
        hooks["of the head"] = model.get_output_embeddings()._forward_pre_hooks
        hooks["all"] = dict(hooks["of the head"])

    def switch(trainer: Any, on: bool) -> None:
        hooks["of the head"].clear()
        hooks["of the head"].update(hooks["all"] if on else {})

    with patch.object(assemble, "spare_copies_of_the_head", keep_hook):
        on, off = _turns("smollm2-chain-sum", switch, arguments.repeats, arguments)
    return {"with the hook": spread(on), "without": spread(off)}


def skipping(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time two recipes with `skip_zero_advantage` and without; the same completions are sampled and learnt from."""

    def switch(trainer: Any, on: bool) -> None:
        trainer._skips = on

    found = {}
    for recipe, count in (
        ("quickstart", QUICKSTART_STEPS * arguments.repeats),
        ("smollm2-chain-sum", arguments.repeats),
    ):
        live: list[float] = []

        def counted(inputs: Any, *, skip: bool, of: Any = LiveRows.of, live: list[float] = live) -> LiveRows:
            advantages = inputs["advantages"]
            live.append(float((advantages != 0).float().mean()))
            rows: LiveRows = of(inputs, skip=skip)
            return rows

        with patch.object(LiveRows, "of", counted):
            on, off = _turns(recipe, switch, count, arguments)
        ratios = [a / b for a, b in zip(on, off, strict=True)]
        found[recipe] = {
            "seconds": {"without them": spread(on), "with all": spread(off)},
            "ratio": statistics.median(on) / statistics.median(off),
            "ratio_of_sums": sum(on) / sum(off),
            "pairs_below_1": sum(ratio < 1 for ratio in ratios),
            "pairs": len(ratios),
            "live_share": statistics.mean(live),
        }
        print(f"{recipe}: {found[recipe]}", flush=True)
    return found


def overlap(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the SmolLM2 recipe by `overlap_reference`, where rewards wait for something far away."""

    def switch(trainer: Any, on: bool) -> None:
        trainer._overlaps = on

    def waiting(trainer: Any, *args: Any, of: Any = HeldOutRewards._calculate_rewards, **options: Any) -> Any:
        time.sleep(JUDGE_SECONDS)
        return of(trainer, *args, **options)

    with patch.object(HeldOutRewards, "_calculate_rewards", waiting):
        more = ("--overlap_reference", "true")
        on, off = _turns("smollm2-chain-sum", switch, arguments.repeats, arguments, *more)
    print(f"overlapped / after the rewards: {statistics.median(on) / statistics.median(off):.2f}")
    return {"rewards_wait_seconds": JUDGE_SECONDS, "while they wait": spread(on), "after them": spread(off)}


def _turns(
    recipe: str, switch: Switch, pairs: int, arguments: argparse.Namespace, *more: str
) -> tuple[list[float], list[float]]:
    """Return the seconds of steps of one training that is switched on and off in turns; pairs begin with either."""
    from dgpo.lab.cli.main import main

    order = [on for pair in range(pairs) for on in ((True, False) if pair % 2 else (False, True))]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    made = iter([None, *order])  # the first step warms up

    def timed_step(trainer: Any, *args: Any, **options: Any) -> Any:
        on = next(made)
        switch(trainer, on is not False)
        start = time.perf_counter()
        loss = super(DGPOTrainer, trainer).training_step(*args, **options)
        if on is not None:
            seconds[on].append(time.perf_counter() - start)
        return loss

    with tempfile.TemporaryDirectory() as folder, patch.object(DGPOTrainer, "training_step", timed_step, create=True):
        words = ["train", recipe, "--max_steps", str(len(order) + 1), "--output_dir", f"{folder}/run"]
        words += ["--eval_before_and_after", "false", "--credit_log_steps", "0", "--save_strategy", "no"]
        assert main([*words, *more, "--num_threads", str(arguments.threads)]) == 0
    return seconds[True], seconds[False]
