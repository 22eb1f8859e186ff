"""The language of the forks task: prompts, demonstrations, the role of each token, and the score. Plain Python.

A prompt shows pairs of digits, the completion copies each pair and picks one of the two:

    7 3 | 2 9 ?        ->        ok 7 3 > 7 ; hmm 2 9 > 9 ; = 7 9

The reward is 1 iff every pick of the answer (after `=`) is the larger digit of its pair. What each token of a
completion is good for is known: the *pivot* (the pick after `>`) decides the reward, the *decoy* (a style word) is as
uncertain as anything and never matters, everything else is a *copy* of what was said before.
"""

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from dgpo.lab.rewards.completions import Completion, completion_text

Forks = tuple[tuple[int, int], ...]
"""The pairs of one prompt; the digits of a pair differ."""
Role = Literal["pivot", "decoy", "copy", "none"]
"""What a token of a completion is good for; `"none"` is what follows `<eos>`."""

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
STYLE_WORDS = ("hmm", "ok", "so", "well")
WORDS = (PAD, EOS, BOS, UNK, *"0123456789", "|", "?", ">", ";", "=", *STYLE_WORDS)
WORD_IDS = {word: index for index, word in enumerate(WORDS)}
_DIGITS = frozenset("0123456789")
_PAIRS = tuple((x, y) for x in range(10) for y in range(10) if x != y)
# One prompt in this many is held out, by its text: whatever the seeds, no training ever meets it.
_HELD_OUT_ONE_IN = 8


def prompt_text(forks: Forks) -> str:
    """Return the prompt that shows these pairs.

    Args:
        forks: The pairs.

    Returns:
        The text, without `<bos>`.

    Example:
        >>> prompt_text(((7, 3), (2, 9)))
        '7 3 | 2 9 ?'
    """
    return " | ".join(f"{x} {y}" for x, y in forks) + " ?"


def answer_text(forks: Forks) -> str:
    """Return the right answer: the larger digit of each pair.

    Args:
        forks: The pairs.

    Returns:
        The digits, with spaces between.

    Example:
        >>> answer_text(((7, 3), (2, 9)))
        '7 9'
    """
    return " ".join(str(max(pair)) for pair in forks)


def demonstration(forks: Forks, correctness: float, rng: random.Random) -> str:
    """Return a completion that picks the larger digit of each pair with probability `correctness`.

    The style words are drawn evenly, and the answer repeats the picks, so a demonstration is right with probability
    `correctness ** len(forks)`.

    Args:
        forks: The pairs of the prompt.
        correctness: Probability of the right pick, in [0, 1]; the picks are independent.
        rng: The source of randomness.

    Returns:
        The text of the completion, without `<eos>`.

    Example:
        >>> demonstration(((7, 3), (2, 9)), 1.0, random.Random(0))
        'well 7 3 > 7 ; hmm 2 9 > 9 ; = 7 9'
    """
    picks = [max(pair) if rng.random() < correctness else min(pair) for pair in forks]
    steps = [f"{rng.choice(STYLE_WORDS)} {x} {y} > {pick} ;" for (x, y), pick in zip(forks, picks, strict=True)]
    return " ".join([*steps, "=", *map(str, picks)])


def completion_length(num_forks: int) -> int:
    """Return the number of tokens of a well-formed completion, `<eos>` included.

    Args:
        num_forks: Pairs of the prompt.

    Returns:
        The number.

    Example:
        >>> completion_length(4)  # 4 x (style word, x, y, >, pick, ;), then =, 4 picks, <eos>
        30
    """
    return 7 * num_forks + 2


def encode(text: str) -> list[int]:
    """Return the ids of the words of a text, without `<bos>` or `<eos>`; unknown words are `<unk>`.

    Args:
        text: Words with spaces between.

    Returns:
        One id per word.

    Example:
        >>> encode("7 3 ?")
        [11, 7, 15]
    """
    return [WORD_IDS.get(word, WORD_IDS[UNK]) for word in text.split()]


def token_roles(num_forks: int) -> list[Role]:
    """Return the role of each token of a well-formed completion, `<eos>` included.

    Args:
        num_forks: Pairs of the prompt.

    Returns:
        One role per token; none of them is `"none"`.

    Example:
        >>> token_roles(1)  # ok 7 3 > 7 ; = 7 <eos>
        ['decoy', 'copy', 'copy', 'copy', 'pivot', 'copy', 'copy', 'copy', 'copy']
    """
    fork: list[Role] = ["decoy", "copy", "copy", "copy", "pivot", "copy"]
    tail: list[Role] = ["copy"] * (num_forks + 2)
    return fork * num_forks + tail


def completion_roles(completion_ids: Sequence[int]) -> list[Role]:
    """Return the role of each token of any completion, malformed and padded ones included.

    Before the first `=`, a style word at the start or after `;` is a decoy and a digit after `>` is a pivot; every
    other token up to `<eos>` is a copy, and what follows `<eos>` has no role. For a well-formed completion this is
    `token_roles`.

    Args:
        completion_ids: Token ids, with or without `<eos>` and padding.

    Returns:
        One role per token.

    Example:
        >>> completion_roles(encode("ok 7 3 > > 7 <eos> <pad>"))
        ['decoy', 'copy', 'copy', 'copy', 'copy', 'pivot', 'copy', 'none']
    """
    roles: list[Role] = []
    before, answering, ended = ";", False, False
    for index in completion_ids:
        word = WORDS[index] if 0 <= index < len(WORDS) else UNK
        answering |= word == "="
        if ended:
            roles.append("none")
        elif not answering and before == ";" and word in STYLE_WORDS:
            roles.append("decoy")
        elif not answering and before == ">" and word in _DIGITS:
            roles.append("pivot")
        else:
            roles.append("copy")
        ended |= word == EOS
        before = word
    return roles


def forks_reward(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float | None]:
    """Return 1 for each completion whose answer, all that follows its last `=`, is right; 0 for the others.

    Args:
        completions: Texts, or lists of chat messages, as TRL hands them over; special tokens are left out.
        answer: The right answer of each, from `answer_text`.
        **columns: The other columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion.

    Raises:
        ValueError: If there is not one answer per completion.

    Example:
        >>> forks_reward(["ok 7 3 > 7 ; = 7", "ok 7 3 > 3 ; = 3", "7"], ["7", "7", "7"])
        [1.0, 0.0, 0.0]
    """
    rewards: list[float | None] = []
    for completion, right in zip(completions, answer, strict=True):
        _, equals, said = completion_text(completion).rpartition("=")
        rewards.append(float(bool(equals) and said.split() == right.split()))
    return rewards


def is_held_out(forks: Forks) -> bool:
    """Return whether this prompt is one of the held-out eighth, which neither warm-up nor training ever meets.

    Args:
        forks: The pairs of the prompt.

    Returns:
        True if it is held out.

    Example:
        >>> sum(is_held_out((pair,)) for pair in _PAIRS), len(_PAIRS)
        (9, 90)
    """
    return zlib.crc32(prompt_text(forks).encode()) % _HELD_OUT_ONE_IN == 0


def draw_forks(num_forks: int, rng: random.Random, *, held_out: bool) -> Iterator[Forks]:
    """Return an endless stream of prompts of one side of the split, drawn evenly with replacement.

    Args:
        num_forks: Pairs per prompt.
        rng: The source of randomness.
        held_out: Which side of the split.

    Yields:
        Forks: The pairs of one prompt.

    Example:
        >>> next(draw_forks(2, random.Random(0), held_out=False))
        ((5, 4), (5, 9))
    """
    while True:
        forks = tuple(rng.choice(_PAIRS) for _ in range(num_forks))
        if is_held_out(forks) == held_out:
            yield forks


def all_forks(num_forks: int) -> Iterator[Forks]:
    """Return every prompt there is: 90 to the power of `num_forks`.

    Args:
        num_forks: Pairs per prompt.

    Returns:
        An iterator over them.

    Example:
        >>> sum(1 for _ in all_forks(2))
        8100
    """
    return itertools.product(_PAIRS, repeat=num_forks)
