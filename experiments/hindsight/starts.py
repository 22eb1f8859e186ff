"""Models that training starts from: those of `credit`, and two that were taught something more in their warm-up."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.credit import layout as language
from experiments.credit.model import Parameters, Shape, completion_logits, initial_parameters
from experiments.credit.variants import WarmUp
from experiments.credit.warm_up import started_models
from experiments.digests import digest, digest_of_files, files_in
from experiments.hindsight import hints

STEPS = 400
SHARE_TAUGHT = 0.5
CODE = (
    "src/dgpo/lab/tasks/forks/language.py",
    *files_in("experiments/credit", ("layout", "model", "warm_up")),
    *files_in("experiments/hindsight", ("hints", "starts")),
)


@dataclass(frozen=True)
class Start:
    """What a warm-up teaches besides the language.

    Attributes:
        kind: `"plain"`: nothing. `"hinted"`: to follow a hint in the prompt. `"interrupted"`: to answer when the trace
            is cut short after a fork, so that the likelihood of the answer can be asked for there. `"interrupted
            anywhere"`: after any token.
        trust: Probability that a pick of a demonstration follows its hint; at .5 a hint says nothing.
    """

    kind: Literal["plain", "hinted", "interrupted", "interrupted anywhere"] = "plain"
    trust: float = 0.9

    @property
    def has_slot(self) -> bool:
        """Whether prompts have a slot for a hint."""
        return self.kind == "hinted"

    def prompts(self, ids: Tensor, num_forks: int) -> Tensor:
        """Return the prompts that the policy sees: those of the task, with an empty slot where there is one."""
        return hints.without_hint(ids, num_forks) if self.has_slot else ids


def started(start: Start, config: WarmUp, seeds: Sequence[int], folder: Path) -> tuple[Parameters, Parameters]:
    """Return the policies and the references that training starts from.

    Args:
        start: What else the warm-up teaches.
        config: The warm-up of the variant.
        seeds: One slice per seed.
        folder: Where models are stored.

    Returns:
        Policies and references, without gradient.
    """
    if start.kind == "plain":
        return started_models(config, seeds, folder)
    key = digest([start, config, digest_of_files(CODE)])
    files = {seed: folder / f"{key}-{seed}.pt" for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        pair = _warmed_up(start, config, missing)
        for index, seed in enumerate(missing):
            partial = files[seed].with_suffix(f".{os.getpid()}")
            torch.save([{name: value[index].clone() for name, value in one.items()} for one in pair], partial)
            partial.replace(files[seed])
    pairs = [torch.load(files[seed], weights_only=True) for seed in seeds]
    policies, references = (
        {name: torch.stack([pair[i][name] for pair in pairs]) for name in pairs[0][i]} for i in (0, 1)
    )
    return policies, references


Lesson = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(digits (N, K, 2), demonstrations (N, T), generator) to prompts and completions."""


def _warmed_up(start: Start, config: WarmUp, seeds: Sequence[int]) -> tuple[Parameters, Parameters]:
    layout = config.layout
    slot = hints.slot_length(layout.num_forks) if start.has_slot else 0
    positions = 3 * layout.num_forks + 1 + slot + layout.length
    parameters = initial_parameters(Shape(language.VOCAB_SIZE, positions, config.hidden_size), seeds)
    streams = [language.Prompts(layout, f"credit warm-up {seed}") for seed in seeds]
    generators = [torch.Generator().manual_seed(7000 + seed) for seed in seeds]
    steps = max(1, round(STEPS * config.steps / WarmUp(layout).steps))  # fewer in the reduced variant
    if start.kind == "hinted":
        lesson = _hinted(layout, start.trust)
    else:
        lesson = _interrupted(layout, every=1 if start.kind == "interrupted anywhere" else fork_width(layout))
    learned = _learn(
        config, lesson, parameters, streams, generators, steps, config.learning_rate, language.REFERENCE_HABIT
    )
    if not config.habit_steps:
        return learned, learned
    rate = config.learning_rate / 5
    taught = _learn(config, lesson, learned, streams, generators, config.habit_steps, rate, language.POLICY_HABIT)
    return taught, learned


def _hinted(layout: language.Layout, trust: float) -> Lesson:
    """Half of the prompts have a hint, whose picks are those of the demonstration with probability `trust`."""

    def lesson(digits: Tensor, shown: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        end = layout.length - 1
        picks = shown[..., end - layout.num_forks : end]
        right, wrong = hints.right_picks(digits), hints.wrong_picks(digits)
        others = torch.where(picks == right, wrong, right)
        hint = hints.partly(picks, others, trust, generator)
        has_hint = torch.rand(len(digits), generator=generator) < SHARE_TAUGHT
        ids = language.prompt_ids(digits)
        empty = hints.without_hint(ids, layout.num_forks)
        return torch.where(has_hint[:, None], hints.with_hint(ids, hint), empty), shown

    return lesson


def _interrupted(layout: language.Layout, every: int) -> Lesson:
    """Half of the traces are cut after some multiple of `every` tokens, and the answer follows at once."""

    def lesson(digits: Tensor, shown: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        cuts = every * torch.randint(trace_length(layout) // every + 1, (len(digits),), generator=generator)
        is_cut = torch.rand(len(digits), generator=generator) < SHARE_TAUGHT
        return language.prompt_ids(digits), torch.where(is_cut[:, None], answered_after(layout, shown, cuts), shown)

    return lesson


def answered_after(layout: language.Layout, traces: Tensor, cuts: Tensor, answer: Tensor | None = None) -> Tensor:
    """Return traces that stop after some tokens and then answer, padded.

    Args:
        layout: What a completion looks like.
        traces: (..., T) ids of well-formed completions.
        cuts: (...) tokens that are kept, 0 to `trace_length`.
        answer: (..., K) ids; the traces' own by default.

    Returns:
        (..., T) ids.
    """
    num_forks, length = layout.num_forks, layout.length
    tail = traces[..., length - num_forks - 2 :]
    if answer is not None:
        tail = torch.cat([tail[..., :1], answer, tail[..., -1:]], -1)
    start = cuts[..., None]
    padded = torch.where(torch.arange(length) < start, traces, torch.full_like(traces, language.PAD))
    return padded.scatter(-1, start + torch.arange(num_forks + 2), tail)


def fork_width(layout: language.Layout) -> int:
    """Return the tokens of a fork in a well-formed trace: fillers, pair, `>`, pick and `;`."""
    return 5 + layout.num_fillers + layout.habit


def trace_length(layout: language.Layout) -> int:
    """Return the tokens of a well-formed completion before its answer."""
    return layout.num_forks * fork_width(layout)


def _learn(
    config: WarmUp,
    lesson: Lesson,
    start: Parameters,
    streams: Sequence[language.Prompts],
    generators: Sequence[torch.Generator],
    steps: int,
    rate: float,
    habit: int,
) -> Parameters:
    """Minimise the cross-entropy of demonstrations, as the warm-up of `credit` does."""
    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        prompts, shown = [], []
        for one, generator in zip(language.stacked(streams, config.batch_size), generators, strict=True):
            demonstrated = language.demonstrations(config.layout, one, config.correctness, generator, habit=habit)
            ids, completions = lesson(one, demonstrated, generator)
            prompts.append(ids)
            shown.append(completions)
        targets = torch.stack(shown)
        logits = completion_logits(parameters, torch.stack(prompts), targets)
        losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=language.PAD, reduction="none")
        per_seed = losses.view(len(generators), -1)
        counts = (targets.flatten(1) != language.PAD).sum(1)
        loss = (per_seed.sum(1) / counts).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in parameters.items()}
