"""Forks as a task: prompts for training and, from the other side of the split, held-out ones."""

import random

from dgpo.errors import ConfigError
from dgpo.lab.tasks.base import Task
from dgpo.lab.tasks.columns import Columns
from dgpo.lab.tasks.forks import language

_EVAL_SIZE = 256


def load_forks(
    *,
    seed: int = 0,
    eval_size: int | None = None,
    num_forks: int = 4,
    size: int = 4096,
    correctness: float = 0.5,
) -> Task:
    """Return the forks task.

    Args:
        seed: Of the prompts.
        eval_size: Held-out prompts, all different; 256 by default (fewer where fewer exist), 0 for none.
        num_forks: Pairs per prompt.
        size: Training prompts, drawn with replacement.
        correctness: Probability that a demonstration of the warm-up picks the larger digit. It does not change the
            prompts; it is in `metadata` for the function that makes the model.

    Returns:
        A task with text prompts, column `answer`, and `forks_reward`.

    Raises:
        ConfigError: If an option is out of range, or more held-out prompts are asked for than exist.

    Example:
        >>> task = load_forks(num_forks=2, size=10, eval_size=3)
        >>> task.train_dataset.num_rows, task.eval_dataset.num_rows, task.reward_funcs[0].__name__
        (10, 3, 'forks_reward')
    """
    for name, value, least in (("num_forks", num_forks, 1), ("size", size, 1), ("eval_size", eval_size, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"forks: {name} is {value!r}; it must be a whole number of at least {least}.")
    held_out = _held_out(num_forks, eval_size, seed)
    prompts = language.draw_forks(num_forks, random.Random(f"forks train {seed}"), held_out=False)
    train = [next(prompts) for _ in range(size)]
    return Task(
        name="forks",
        train=_columns(train),
        held_out=_columns(held_out) if held_out else None,
        reward_funcs=(language.forks_reward,),
        description=(
            f"forks: pick the larger digit of {num_forks} pairs; {len(train)} prompts, {len(held_out)} held out"
        ),
        metadata={"num_forks": num_forks, "correctness": correctness, "size": size, "eval_size": len(held_out)},
    )


def _held_out(num_forks: int, eval_size: int | None, seed: int) -> list[language.Forks]:
    """Different held-out prompts: of all there are if they are few, else drawn until there are enough."""
    rng = random.Random(f"forks held out {seed}")
    if num_forks > 2:
        wanted = _EVAL_SIZE if eval_size is None else eval_size
        prompts = language.draw_forks(num_forks, rng, held_out=True)
        distinct: dict[language.Forks, None] = {}
        while len(distinct) < wanted:
            distinct[next(prompts)] = None
        return list(distinct)
    every = [forks for forks in language.all_forks(num_forks) if language.is_held_out(forks)]
    if eval_size is not None and eval_size > len(every):
        raise ConfigError(
            f"forks: eval_size is {eval_size}, but with num_forks = {num_forks} only {len(every)} prompts are held "
            "out. Ask for fewer, or for more forks."
        )
    return rng.sample(every, min(_EVAL_SIZE, len(every)) if eval_size is None else eval_size)


def _columns(prompts: list[language.Forks]) -> Columns:
    return Columns(
        {
            "prompt": [language.prompt_text(forks) for forks in prompts],
            "answer": [language.answer_text(forks) for forks in prompts],
        }
    )
