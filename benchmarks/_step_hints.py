"""What a hint costs: a rollout and its update by GRPO, DGPO and hindsight, whose reference runs twice a rollout."""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _common import interleaved, spread
from _step_model import build_model

CONTENDERS = ("grpo_ours", "dgpo", "hindsight")


def hints(
    arguments: argparse.Namespace, build_trainer: Callable[..., Any], whole_step: Callable[..., None]
) -> dict[str, Any]:
    """Time whole steps with sampling, and again on completions that were sampled before; the contenders take turns.

    Args:
        arguments: Sizes and repeats.
        build_trainer: Makes the trainer of a contender.
        whole_step: Samples, scores and differentiates.

    Returns:
        Seconds of each contender.
    """
    question = {"prompt": " ".join(["word"] * arguments.prompt_length), "answer": "word"}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        path = build_model(arguments, Path(folder))
        trainers = {name: build_trainer(name, path, arguments, question) for name in CONTENDERS}
        steps = {name: partial(whole_step, name, trainer, arguments, question) for name, trainer in trainers.items()}
        found = {"with sampling": interleaved(steps, arguments.repeats)}
        # One rollout for all: the same completions and lengths.
        sampled = trainers["dgpo"]._generate([question["prompt"]] * arguments.batch_size)
        for trainer in trainers.values():
            patches.enter_context(patch.object(trainer, "_generate", lambda prompts, rollout=sampled: rollout))
        found["after sampling"] = interleaved(steps, arguments.repeats)
    result = {kind: {name: spread(times) for name, times in each.items()} for kind, each in found.items()}
    for kind, each in result.items():
        print(kind, {name: f"{times['median']:.2f} s" for name, times in each.items()}, flush=True)
    return result
