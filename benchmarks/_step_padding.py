"""What padding costs a training step: rollouts as TRL pads them, and sorted by length and cut (`sort_by_length`)."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _common import interleaved, spread
from _step_model import build_model
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOTrainer

MICRO_BATCHES = 8


@contextmanager
def counted_tokens() -> Iterator[dict[str, int]]:
    """Count the tokens that the backbones of policy and reference run inside of the block, and the padding of them."""
    count = {"tokens": 0, "padding": 0}
    score = GRPOTrainer._get_per_token_logps_and_entropies

    @wraps(score)
    def counting(self: Any, model: Any, ids: torch.Tensor, mask: torch.Tensor, *args: Any, **options: Any) -> Any:
        count["tokens"] += mask.numel()
        count["padding"] += int((mask == 0).sum())
        return score(self, model, ids, mask, *args, **options)

    with patch.object(GRPOTrainer, "_get_per_token_logps_and_entropies", counting):
        yield count


def skewed_rollout(arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Return a rollout of eight micro-batches, most of whose completions are much shorter than the longest.

    Lengths are log-normal (sigma 0.8), their median a fifth of the longest, as are those of answers with a chain of
    thought; prompts have a quarter of the longest prompt's length to all of it.
    """
    count, longest = MICRO_BATCHES * arguments.batch_size, arguments.completion_length
    generator = torch.Generator().manual_seed(3)
    lengths = (torch.randn(count, generator=generator) * 0.8).exp().mul(longest / 5).long().clamp(1, longest)
    prompts = torch.randint(arguments.prompt_length // 4, arguments.prompt_length + 1, (count,), generator=generator)

    def tokens(of: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.randint(3, arguments.vocab_size, (int(length),), generator=generator) for length in of]
        masks = [torch.ones_like(row) for row in rows]
        return tuple(pad_sequence(values, batch_first=True, padding_side=side) for values in (rows, masks))

    inputs = dict(zip(("prompt_ids", "prompt_mask"), tokens(prompts, "left"), strict=True))
    inputs |= dict(zip(("completion_ids", "completion_mask"), tokens(lengths, "right"), strict=True))
    return inputs | {"advantages": torch.linspace(-1, 1, count), "num_items_in_batch": lengths.sum().float()}


def update(trainer: Any, rollout: dict[str, torch.Tensor]) -> None:
    """Cut a rollout as the trainer does, and make the loss and the backward pass of all its micro-batches."""
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.current_gradient_accumulation_steps = MICRO_BATCHES
    with patch.object(trainer, "_generate_and_score_completions", lambda _: rollout):
        for trainer._step in range(MICRO_BATCHES):
            trainer._compute_loss(trainer.model, trainer._prepare_inputs([])).backward()


def skewed(arguments: argparse.Namespace, build_trainer: Callable[..., Any]) -> dict[str, Any]:
    """Time an update on a skewed rollout both ways, taking turns, and count its tokens."""
    rollout = skewed_rollout(arguments)
    more = {"gradient_accumulation_steps": MICRO_BATCHES}
    with tempfile.TemporaryDirectory() as folder, counted_tokens() as count:
        model = build_model(arguments, Path(folder))
        trainers = {
            name: build_trainer("dgpo", model, arguments, sort_by_length=name == "sorted", **more)
            for name in ("padded", "sorted")
        }
        counts = {}
        for name, trainer in trainers.items():
            count.update(tokens=0, padding=0)
            update(trainer, rollout)
            counts[name] = dict(count)
        runs = {name: lambda trainer=trainer: update(trainer, rollout) for name, trainer in trainers.items()}
        seconds = interleaved(runs, arguments.repeats, warm_up=0)
    return {"counts": counts, "seconds": {name: spread(times) for name, times in seconds.items()}}


def quickstart(steps: int) -> dict[str, Any]:
    """Count the tokens of the first steps of the quickstart both ways."""
    from dgpo.lab.cli.main import main

    counts = {}
    for name in ("padded", "sorted"):
        with tempfile.TemporaryDirectory() as folder, counted_tokens() as count:
            words = ["train", "quickstart", "--max_steps", str(steps), "--output_dir", f"{folder}/run"]
            words += ["--eval_before_and_after", "false", "--credit_log_steps", "0"]
            assert main([*words, "--sort_by_length", str(name == "sorted").lower()]) == 0
            counts[name] = dict(count)
    return {"steps": steps, "counts": counts}


def padding(arguments: argparse.Namespace, build_trainer: Callable[..., Any]) -> dict[str, Any]:
    """Measure both rollouts and print them."""
    found = {"skewed": skewed(arguments, build_trainer), "quickstart": quickstart(20)}
    for name, result in found.items():
        for way, count in result["counts"].items():
            seconds = f", {result['seconds'][way]['median']:.2f} s" if "seconds" in result else ""
            print(f"{name} {way}: {count['tokens']} tokens, {count['padding'] / count['tokens']:.1%} padding{seconds}")
    return found
