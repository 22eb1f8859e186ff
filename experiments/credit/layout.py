"""The forks task as tensors: prompts, demonstrations, rewards, roles, and which picks caused the outcome.

With one filler word a fork and no habit this is the language of `dgpo.lab.tasks.forks`, token by token. Two things can
be added: more style words before each fork (longer completions, the same decisions), and a habit, a last style word
that is always the same one and that the policy and its reference do not share.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from dgpo.lab.tasks.forks.language import STYLE_WORDS, WORD_IDS, WORDS, Forks, draw_forks

PAD, EOS, BOS = (WORD_IDS[word] for word in ("<pad>", "<eos>", "<bos>"))
EQUALS, PICK, END, BAR, ASK = (WORD_IDS[word] for word in ("=", ">", ";", "|", "?"))
DIGIT = WORD_IDS["0"]
STYLE = tuple(WORD_IDS[word] for word in STYLE_WORDS)
VOCAB_SIZE = len(WORDS)
ROLES = ("pivot", "decoy", "habit", "copy")
# The habit of the reference, and the other one that the policy is taught.
REFERENCE_HABIT, POLICY_HABIT = STYLE[0], STYLE[1]


@dataclass(frozen=True)
class Layout:
    """What a prompt and its completion look like.

    Attributes:
        num_forks: Pairs per prompt, K.
        num_fillers: Style words before each copied pair.
        habit: Whether one more style word follows them, always the same one.
    """

    num_forks: int
    num_fillers: int = 1
    habit: bool = False

    @property
    def length(self) -> int:
        """Tokens of a well-formed completion, `<eos>` included."""
        return (5 + self.num_fillers + self.habit) * self.num_forks + self.num_forks + 2


class Prompts:
    """An endless stream of prompts of one side of the split, the same for the same name."""

    def __init__(self, layout: Layout, name: str, *, held_out: bool = False) -> None:
        self._stream = draw_forks(layout.num_forks, random.Random(name), held_out=held_out)

    def take(self, count: int) -> Tensor:
        """Return the digits of the next prompts, (count, K, 2)."""
        pairs: list[Forks] = list(islice(self._stream, count))
        return torch.tensor(pairs)


def prompt_ids(digits: Tensor) -> Tensor:
    """Return the ids of prompts, `<bos>` first.

    Args:
        digits: (..., K, 2).

    Returns:
        (..., 3 K + 1) ids.
    """
    bars = torch.full_like(digits[..., :1], BAR)
    bars[..., -1, :] = ASK
    body = torch.cat([digits + DIGIT, bars], -1).flatten(-2)
    return torch.cat([torch.full_like(body[..., :1], BOS), body], -1)


def demonstrations(
    layout: Layout, digits: Tensor, correctness: float, generator: torch.Generator, *, habit: int = REFERENCE_HABIT
) -> Tensor:
    """Return completions that pick the larger digit of each pair with probability `correctness`.

    Args:
        layout: What a completion looks like.
        digits: (N, K, 2).
        correctness: Probability of the right pick; the picks are independent.
        generator: The source of randomness.
        habit: The word of the habit, where the layout has one.

    Returns:
        (N, T) ids, `<eos>` last.
    """
    count = len(digits)
    right = torch.rand(digits.shape[:2], generator=generator) < correctness
    picks = torch.where(right, digits.amax(-1), digits.amin(-1)) + DIGIT
    drawn = torch.randint(len(STYLE), (*digits.shape[:2], layout.num_fillers), generator=generator)
    constant = lambda word, width=1: torch.full((*digits.shape[:2], width), word)  # noqa: E731
    parts = [
        torch.tensor(STYLE)[drawn],
        constant(habit, int(layout.habit)),
        digits + DIGIT,
        constant(PICK),
        picks[..., None],
        constant(END),
    ]
    ends = [torch.full((count, 1), word) for word in (EQUALS, EOS)]
    return torch.cat([torch.cat(parts, -1).flatten(1), ends[0], picks, ends[1]], -1)


def trained_mask(completions: Tensor) -> Tensor:
    """Return True up to and including the first `<eos>` of (..., T) ids."""
    is_end = completions == EOS
    return (is_end.cumsum(-1) - is_end.long()) == 0


def rewards(completions: Tensor, digits: Tensor) -> Tensor:
    """Return 1 where what follows the last `=` is the larger digit of each pair and nothing else, 0 elsewhere.

    Args:
        completions: (B, T) ids.
        digits: (B, K, 2), of the prompt of each.

    Returns:
        (B,) float32.
    """
    length, num_forks = completions.shape[1], digits.shape[1]
    trained = trained_mask(completions) & (completions != EOS)
    positions = torch.arange(length)
    start = torch.where((completions == EQUALS) & trained, positions, -1).amax(-1)
    fits = (start >= 0) & (trained.sum(-1) == start + 1 + num_forks)
    where = (start[:, None] + 1 + torch.arange(num_forks)).clamp(max=length - 1)
    answer = completions.gather(1, where)
    return (fits & (answer == digits.amax(-1) + DIGIT).all(-1)).float()


def token_roles(layout: Layout, completions: Tensor) -> dict[str, Tensor]:
    """Return which tokens have each of `ROLES`: masks that add up to `trained_mask`.

    Before the first `=`, a digit after `>` is a pivot and the style words at the start or after `;` are decoys, the
    last of them the habit if there is one; every other token is a copy.

    Args:
        layout: What a completion looks like.
        completions: (B, T) ids.

    Returns:
        Role to (B, T) mask.
    """
    trained = trained_mask(completions)
    before = torch.cat([torch.full_like(completions[:, :1], END), completions[:, :-1]], 1)
    tracing = trained & ((completions == EQUALS).cumsum(-1) == 0)
    is_style = tracing & torch.isin(completions, torch.tensor(STYLE))
    pivot = tracing & (before == PICK) & (completions >= DIGIT) & (completions < DIGIT + 10)
    latest = is_style & (before == END)
    decoy, habit = latest, torch.zeros_like(latest)
    for index in range(1, layout.num_fillers + layout.habit):
        latest = is_style & torch.cat([torch.zeros_like(latest[:, :1]), latest[:, :-1]], 1)
        if layout.habit and index == layout.num_fillers:
            habit = latest
        else:
            decoy = decoy | latest
    return {"pivot": pivot, "decoy": decoy, "habit": habit, "copy": trained & ~(pivot | decoy | habit)}


def causal_signs(pivots: Tensor, completions: Tensor, digits: Tensor) -> Tensor:
    """Return what each pick did to the outcome: 1 right, -1 wrong, while all picks before it are right; 0 elsewhere.

    Once a pick is wrong the reward is lost, and what follows causes nothing any more.

    Args:
        pivots: (B, T) mask of the picks, of `token_roles`.
        completions: (B, T) ids.
        digits: (B, K, 2).

    Returns:
        (B, T) float32 of -1, 0 and 1.
    """
    index = pivots.cumsum(-1) - 1
    expected = (digits.amax(-1) + DIGIT).gather(1, index.clamp(0, digits.shape[1] - 1))
    right = (completions == expected) & (index < digits.shape[1])
    wrong = (pivots & ~right).long()
    untouched = wrong.cumsum(-1) - wrong == 0
    return torch.where(pivots & untouched, torch.where(right, 1.0, -1.0), 0.0)


def stacked(prompts: Sequence[Prompts], count: int) -> Tensor:
    """Return the next digits of several streams, (S, count, K, 2)."""
    return torch.stack([stream.take(count) for stream in prompts])
