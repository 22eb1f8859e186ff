"""Clocks inside of a training step: what DGPO takes more than GRPO without a reference, part by part."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from _common import seconds_of, synchronize

import dgpo.engines.trl.trainer as dgpo_trainer
from dgpo.engines.trl import heads

# The clock of the second part runs over the whole forward pass of the head: its difference is what the reference adds.
PARTS = ("reference forward", "reference head and pair statistics", "redistribution")


@contextmanager
def clocks(trainer: Any) -> Iterator[dict[str, float]]:
    """Yield the seconds spent inside of the block in the reference's forward pass, the head, and the redistribution."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                synchronize()
                spent[part] += time.perf_counter() - start

        return call

    with ExitStack() as stack:
        reference = getattr(trainer, "ref_model", None)
        if reference is not None:
            stack.enter_context(patch.object(reference, "forward", timed("reference forward", reference.forward)))
        stack.enter_context(
            patch.object(heads, "lm_head_stats", timed("reference head and pair statistics", heads.lm_head_stats))
        )
        assign_credit = timed("redistribution", dgpo_trainer.assign_credit)
        stack.enter_context(patch.object(dgpo_trainer, "assign_credit", assign_credit))
        yield spent


def breakdown(steps: dict[str, Callable[[], None]], trainers: dict[str, Any], repeats: int) -> dict[str, float]:
    """Return medians, in seconds, of a GRPO step on our head, and of what a DGPO step takes more than it.

    The clocks wait for a GPU at every part: these steps are not those of the other table. Differences are of steps that
    follow one another, and the two take turns in going first.
    """
    rounds: dict[str, list[float]] = {"grpo_ours": [], "whole": []} | {part: [] for part in PARTS}
    for round_ in range(max(repeats, 5)):
        seconds, spent = {}, {}
        for name in ("grpo_ours", "dgpo")[:: 1 if round_ % 2 else -1]:
            with clocks(trainers[name]) as spent[name]:
                seconds[name] = seconds_of(steps[name])
        rounds["grpo_ours"].append(seconds["grpo_ours"])
        rounds["whole"].append(seconds["dgpo"] - seconds["grpo_ours"])
        for part in PARTS:
            rounds[part].append(spent["dgpo"][part] - spent["grpo_ours"][part])
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    return medians | {"rest": medians["whole"] - sum(medians[part] for part in PARTS)}
