"""Models that know the language and pick at random, trained once per seed and stored beside the cells."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments.credit import layout as language
from experiments.credit.model import Parameters, Shape, completion_logits, initial_parameters
from experiments.credit.variants import WarmUp
from experiments.digests import digest, digest_of_files, files_in

# What makes a model besides its settings.
CODE = ("src/dgpo/lab/tasks/forks/language.py", *files_in("experiments/credit", ("layout", "model", "warm_up")))


def started_models(config: WarmUp, seeds: Sequence[int], folder: Path) -> tuple[Parameters, Parameters]:
    """Return the policies and the references that training starts from, equal unless the policy has another habit.

    Args:
        config: What decides the weights.
        seeds: One slice per seed.
        folder: Where they are stored.

    Returns:
        Policies and references, without gradient.
    """
    key = digest([config, digest_of_files(CODE)])
    files = {seed: folder / f"{key}-{seed}.pt" for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        pair = _warmed_up(config, missing)
        for index, seed in enumerate(missing):
            partial = files[seed].with_suffix(f".{os.getpid()}")
            torch.save([{name: value[index].clone() for name, value in one.items()} for one in pair], partial)
            partial.replace(files[seed])
    pairs = [torch.load(files[seed], weights_only=True) for seed in seeds]
    policies, references = (
        {name: torch.stack([pair[i][name] for pair in pairs]) for name in pairs[0][i]} for i in (0, 1)
    )
    return policies, references


def _warmed_up(config: WarmUp, seeds: Sequence[int]) -> tuple[Parameters, Parameters]:
    shape = Shape(language.VOCAB_SIZE, 3 * config.layout.num_forks + 1 + config.layout.length, config.hidden_size)
    parameters = initial_parameters(shape, seeds)
    streams = [language.Prompts(config.layout, f"credit warm-up {seed}") for seed in seeds]
    generators = [torch.Generator().manual_seed(7000 + seed) for seed in seeds]
    learned = _learn(
        config, parameters, streams, generators, config.steps, config.learning_rate, language.REFERENCE_HABIT
    )
    if not config.habit_steps:
        return learned, learned
    rate = config.learning_rate / 5
    return _learn(config, learned, streams, generators, config.habit_steps, rate, language.POLICY_HABIT), learned


def _learn(
    config: WarmUp,
    start: Parameters,
    streams: Sequence[language.Prompts],
    generators: Sequence[torch.Generator],
    steps: int,
    rate: float,
    habit: int,
) -> Parameters:
    """Minimise the cross-entropy of demonstrations: linear rise over 30 updates, then a cosine down to 5 %."""
    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        digits = language.stacked(streams, config.batch_size)
        shown = torch.stack(
            [
                language.demonstrations(config.layout, one, config.correctness, generator, habit=habit)
                for one, generator in zip(digits, generators, strict=True)
            ]
        )
        logits = completion_logits(parameters, language.prompt_ids(digits), shown)
        # The sum over seeds of each seed's mean: no seed's gradient depends on how many others there are.
        loss = F.cross_entropy(logits.flatten(0, 2), shown.flatten()) * len(generators)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in parameters.items()}
