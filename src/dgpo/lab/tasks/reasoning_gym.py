"""Procedural tasks of reasoning-gym, `reasoning_gym:<name>`, each with its own scorer."""

import dataclasses
import decimal
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, get_args

from dgpo.errors import ConfigError, DataError
from dgpo.lab.progress import track
from dgpo.lab.tasks.base import Task
from dgpo.lab.tasks.columns import Columns
from dgpo.lab.tasks.entries import dump_entry
from dgpo.lab.tasks.gym_scoring import CODE_RUNNING_SCORERS, Extraction, refuse_if_blind, scorer_reward
from dgpo.names import did_you_mean

SYSTEM_PROMPT = "Answer with only the final answer, nothing else."
_EVAL_SIZE = 128
# An entry is drawn from Random(seed + index), so two seeds that are near share entries. Runs stay this far apart ...
_SEED_STRIDE = 1_000_000
# ... and the held-out entries lie beyond all of them, below 2**32, which is as far as numpy's seeds go.
_EVAL_OFFSET = 2**31
# Drawing stops after this many entries for each one wanted: some data sets have few different questions.
_PATIENCE = 20


def load_reasoning_gym(
    name: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    size: int = 2000,
    system_prompt: str | None = SYSTEM_PROMPT,
    answer_extraction: Extraction = "whole",
    allow_code_execution: bool = False,
    own_scorer: bool = True,
    **options: Any,
) -> Task:
    """Return a reasoning-gym data set as a task.

    Args:
        name: The data set, such as `"chain_sum"`.
        seed: Which entries. Held-out entries come from another range of seeds, and questions that occur there are left
            out of the training rows.
        eval_size: Held-out questions, all different; by default 128, or a quarter of the different questions found if
            that is less; 0 for none.
        size: Training rows.
        system_prompt: The first message of each prompt; `None` or `""` for none.
        answer_extraction: Which part of the completion the scorer gets.
        allow_code_execution: Accept a data set of `CODE_RUNNING_SCORERS`, whose scorer runs what the model wrote.
        own_scorer: Whether the data set's scorer will be used; one that runs code or accepts nonsense is then refused.
        **options: The data set's own options, such as `min_terms`.

    Returns:
        A task with chat prompts and columns `answer` and `entry` (JSON).

    Raises:
        ConfigError: If the name or an option is unknown or refused by reasoning-gym.
        DataError: If no training question is left beside the held-out ones.

    Example:
        >>> task = load_reasoning_gym("chain_sum", size=4, eval_size=2, min_terms=2, max_terms=2)
        >>> task.reward_funcs[0].__name__, task.train_dataset.num_rows, task.eval_dataset.num_rows
        ('chain_sum', 4, 2)
    """
    _check_options(name, seed, eval_size, size, answer_extraction)
    if own_scorer and name in CODE_RUNNING_SCORERS and not allow_code_execution:
        raise ConfigError(
            f"reasoning_gym:{name}: its scorer runs the model's completions as Python code on this machine. Set "
            "allow_code_execution: true if that is acceptable, in a container say, or name other rewards."
        )
    train_seed = seed * _SEED_STRIDE % (_EVAL_OFFSET - _SEED_STRIDE)

    def entries(offset: int) -> Iterator[dict[str, Any]]:
        # One data set after the other rather than a large one: some refuse a size beyond what they can make.
        count = max(size, eval_size or 0)
        for start in range(0, _SEED_STRIDE, count):
            part = _create(name, options, seed=train_seed + offset + start, size=count)
            yield from (part[index] for index in range(count))

    with _global_state_restored():
        train, held_out = _split(name, entries(0), entries(_EVAL_OFFSET), size, eval_size)
        scorer = _create(name, options, seed=train_seed, size=1)
        if own_scorer:
            refuse_if_blind(name, scorer, train[:4])
    questions = len({entry["question"] for entry in train})
    return Task(
        name=f"reasoning_gym:{name}",
        train=_columns(train, system_prompt),
        held_out=_columns(held_out, system_prompt) if held_out else None,
        reward_funcs=(scorer_reward(name, scorer, answer_extraction),),
        description=(
            f"reasoning_gym:{name}: {len(train)} rows of {questions} different questions, {len(held_out)} held out"
        ),
        metadata={"size": len(train), "eval_size": len(held_out), "questions": questions, "options": options},
    )


def dataset_names() -> list[str]:
    """Return the names of reasoning-gym's data sets.

    Returns:
        The names, sorted.

    Example:
        >>> "chain_sum" in dataset_names()
        True
    """
    return sorted(_datasets())


def _datasets() -> dict[str, tuple[Any, Any]]:
    try:
        with warnings.catch_warnings():
            # One of its dependencies compares with `is` where it means `==`; Python warns of it once per installation.
            warnings.simplefilter("ignore", SyntaxWarning)
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError("tasks of reasoning_gym need the package reasoning-gym: pip install 'dgpo[lab]'.") from error
    return DATASETS


@contextmanager
def _global_state_restored() -> Iterator[None]:
    """`decimal_arithmetic` sets the precision of all decimals, `pool_matrix` the seed of numpy: not for the others."""
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with decimal.localcontext():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _check_options(name: str, seed: int, eval_size: int | None, size: int, answer_extraction: str) -> None:
    if name not in _datasets():
        hint = did_you_mean(name, _datasets())
        raise ConfigError(f"reasoning_gym has no data set {name!r}.{hint} It has {len(_datasets())} others.")
    if answer_extraction not in get_args(Extraction):
        raise ConfigError(
            f"reasoning_gym:{name}: answer_extraction is {answer_extraction!r}; it must be one of "
            f"{', '.join(get_args(Extraction))}."
        )
    most = _SEED_STRIDE // _PATIENCE
    for option, value, least in (("size", size, 1), ("eval_size", eval_size, 0), ("seed", seed, 0)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least and (value <= most or option == "seed")):
            raise ConfigError(
                f"reasoning_gym:{name}: {option} is {value!r}; it must be a whole number of at least {least}"
                f"{'' if option == 'seed' else f' and at most {most}'}."
            )


def _create(name: str, options: dict[str, Any], *, seed: int, size: int) -> Any:
    """reasoning-gym's data set; an option that it refuses is an error with the valid ones."""
    dataset_class, config_class = _datasets()[name]
    valid = sorted({field.name for field in dataclasses.fields(config_class)} - {"seed", "size"})
    for option in options:
        if option not in valid:
            raise ConfigError(
                f"reasoning_gym:{name} has no option {option!r}.{did_you_mean(option, valid)} "
                f"Its options are: {', '.join(valid)}."
            )
    try:
        return dataset_class(config=config_class(**options, seed=seed, size=size))
    # Whatever a wrong value makes it raise: an assertion, a comparison of a text with a number, ...
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "its defaults"
        raise ConfigError(
            f"reasoning_gym:{name} refuses {given}: {str(error) or type(error).__name__}. "
            f"Its options are: {', '.join(valid)}."
        ) from error


def _split(
    name: str,
    train_entries: Iterator[dict[str, Any]],
    held_out_entries: Iterator[dict[str, Any]],
    size: int,
    eval_size: int | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out entries that share no question."""
    train = [next(train_entries) for _ in track(range(size), f"making reasoning_gym:{name}")]
    if eval_size is None:
        eval_size = min(_EVAL_SIZE, len({entry["question"] for entry in train}) // 4)
    held_out: dict[str, dict[str, Any]] = {}
    for entry in islice(held_out_entries, eval_size * _PATIENCE):
        held_out.setdefault(entry["question"], entry)
        if len(held_out) == eval_size:
            break
    fresh = [entry for entry in train if entry["question"] not in held_out]
    fresh += _fresh(train_entries, held_out, size - len(fresh))
    if not fresh:
        raise DataError(
            f"reasoning_gym:{name}: all questions are among the {len(held_out)} held-out ones, none is left for "
            "training. Lower eval_size, or give options with more different questions."
        )
    return fresh, list(held_out.values())


def _fresh(entries: Iterator[dict[str, Any]], held_out: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Up to `count` more entries whose question is not held out."""
    tried = islice(entries, count * _PATIENCE)
    return list(islice((entry for entry in tried if entry["question"] not in held_out), count))


def _columns(entries: Sequence[dict[str, Any]], system_prompt: str | None) -> Columns:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return Columns(
        {
            "prompt": [[*system, {"role": "user", "content": entry["question"]}] for entry in entries],
            # Some puzzles have many right answers and name none.
            "answer": [None if entry["answer"] is None else str(entry["answer"]) for entry in entries],
            "entry": [dump_entry(entry) for entry in entries],
        }
    )
