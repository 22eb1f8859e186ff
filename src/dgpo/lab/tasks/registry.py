"""Tasks by the names that a recipe uses."""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards.registry import can_score, get_reward, is_own, refuse_unknown_arguments, reward_names
from dgpo.lab.tasks.base import RewardFn, Task
from dgpo.lab.tasks.files import load_file, load_hub
from dgpo.lab.tasks.forks.task import load_forks
from dgpo.lab.tasks.options import check_hub
from dgpo.lab.tasks.prompting import check_chat
from dgpo.lab.tasks.readers import FORMATS
from dgpo.names import did_you_mean

_GYM = "reasoning_gym:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")


def load_task(
    name: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    rewards: Sequence[str] | None = None,
    reward_options: Mapping[str, Mapping[str, Any]] | None = None,
    chat: bool | None = None,
    **task_args: Any,
) -> Task:
    """Return the task of this name.

    Args:
        name: `forks`; `reasoning_gym:<name>`; a local file ending in .jsonl, .json, .csv or .parquet; or a data set of
            the hub, `owner/name` or `owner/name:configuration`.
        seed: Which prompts.
        eval_size: Held-out prompts; `None` is the task's default, 0 is none.
        rewards: Names of scorers, such as `last_number`, import paths of functions of your own
            (`my_rewards.py:score`), or `task`, the task's own; the first one is the accuracy that is reported. `None`
            is the task's own.
        reward_options: Options of rewards, by the name that stands in `rewards` or the function's own name.
        chat: Whether prompts go through the chat template of the model; `None` where its tokenizer has one.
        **task_args: The options of the task.

    Returns:
        The task.

    Raises:
        ConfigError: If there is no such task, reward or option.
        DataError: If the data cannot be used.

    Example:
        >>> load_task("forks", eval_size=8, rewards=["task", "exact_match"], num_forks=2).eval_dataset.num_rows
        8
        >>> load_task("forsk")
        Traceback (most recent call last):
        dgpo.errors.ConfigError: there is no task 'forsk'. Did you mean 'forks'? A task is forks, ...
    """
    check_chat(chat)
    names = _check_rewards(rewards)
    options = _by_name(reward_options or {}, names or ())
    if name == "forks":
        _check_options(name, load_forks, task_args)
        task = _with_rewards(load_forks(seed=seed, eval_size=eval_size, **task_args), names, options)
    elif name.startswith(_GYM):
        from dgpo.lab.tasks.reasoning_gym import load_reasoning_gym

        own_scorer = names is None or "task" in names
        gym = load_reasoning_gym(
            name.removeprefix(_GYM), seed=seed, eval_size=eval_size, **{**task_args, "own_scorer": own_scorer}
        )
        task = _with_rewards(gym, names, options)
    else:
        load = load_hub if on_hub(name) else load_file
        _check_options(name, load, task_args)
        given: dict[str, Any] = {**task_args, "rewards": names, "reward_options": options, "chat": chat}
        task = load(name, seed=seed, eval_size=eval_size, **given)
    for reward in task.reward_funcs:
        refuse_unknown_arguments(reward, [column for column in task.train.names() if column != "prompt"])
    return replace(task, chat=chat)


def on_hub(name: str) -> bool:
    """Return whether a task is a data set of the hub, rather than a file or one that is made here.

    Args:
        name: As for `load_task`.

    Returns:
        Whether reading it may need the network.

    Raises:
        ConfigError: If there is no such task.

    Example:
        >>> on_hub("openai/gsm8k:main"), on_hub("sums.jsonl"), on_hub("forks")
        (True, False, False)
    """
    if name == "forks" or name.startswith(_GYM) or _is_file(name):
        return False
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(_unknown(name))
    return True


def check_hub_task(
    name: str,
    *,
    rewards: Sequence[str] | None = None,
    reward_options: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> None:
    """Raise for what is wrong with a task of the hub, as far as it can be known without the hub.

    Args:
        name: As for `load_task`.
        rewards: Likewise.
        reward_options: Likewise.
        **options: Likewise; and the options of the task.

    Raises:
        ConfigError: If there is no such reward or option.
        DataError: If a local file that is named cannot be read.
    """
    names = _check_rewards(rewards)
    by_name = _by_name(reward_options or {}, names or ())
    _check_options(name, load_hub, {key: value for key, value in options.items() if key not in ("seed", "eval_size")})
    check_hub(rewards=names, reward_options=by_name, **options)


def _is_file(name: str) -> bool:
    path = Path(name).expanduser()
    # `data/train.txt` looks like the id of a data set too; where there is a folder `data`, a file is meant.
    beside = path.suffix[1:].isalpha() and "/" in name and os.path.isdir(path.parent)
    return path.suffix.lower() in FORMATS or os.path.isfile(path) or beside or name.startswith((".", "/", "~"))


def _unknown(name: str) -> str:
    from dgpo.lab.tasks.reasoning_gym import dataset_names

    if os.path.isdir(name):
        return f"task {name!r} is a folder; name a file in it, such as {name}/data.jsonl ({', '.join(FORMATS)})."
    if (url := re.fullmatch(r"https?://[^/]+/datasets/([^/]+/[^/?#]+).*", name)) is not None:
        return f"task {name!r} is an address; a data set of the hub is named by its id: {url[1]}."
    short = re.split(r"[:/]", name)[-1]
    # A bare `chain_sum` is nearest to `reasoning_gym:chain_sum`, which as a whole looks quite different.
    valid = {"forks": "forks"} | {gym: _GYM + gym for gym in dataset_names()}
    near = did_you_mean(short, valid)
    for gym, full in valid.items():
        near = near.replace(f"'{gym}'", f"'{full}'")
    return (
        f"there is no task {name!r}.{near} A task is forks, reasoning_gym:<name>, a file ending in "
        f"{', '.join(FORMATS)}, or a data set of the hub, owner/name."
    )


def _check_rewards(rewards: Sequence[str] | None) -> tuple[str, ...] | None:
    if rewards is None:
        return None
    names = (rewards,) if isinstance(rewards, str) else tuple(rewards)
    valid = (*reward_names(), "task")
    if not names:
        raise ConfigError(f"rewards is empty; name at least one of {', '.join(valid)}.")
    for name in names:
        if not isinstance(name, str) or not (name in valid or is_own(name)):
            hint = did_you_mean(str(name), valid)
            if not hint and str(name).endswith(".py"):
                hint = f" Name the function in it: {name}:function."
            raise ConfigError(
                f"there is no reward {name!r}.{hint} The rewards are: {', '.join(valid)}; or one of your own, "
                "my_rewards.py:function."
            )
    if len({name.rpartition(":")[2] for name in names}) < len(names):
        raise ConfigError(
            f"rewards names one scorer twice: {', '.join(names)}; use reward_weights to weigh it more. Functions of "
            "your own need different names, as metrics bear them."
        )
    return names


def _by_name(options: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The options of each reward under its full name; those of a reward that is not used are refused."""
    short = {name.rpartition(":")[2]: name for name in names} | {name: name for name in names}
    for name, given in options.items():
        if name not in short:
            used = f"rewards names {', '.join(names)}" if names else "the recipe names no rewards"
            raise ConfigError(f"reward_options are given for {name!r}, and {used}.{did_you_mean(name, short)}")
        if not isinstance(given, Mapping):
            raise ConfigError(f"reward_options of {name} must be a mapping such as {{scale: 2}}, got {given!r}.")
    return {short[name]: given for name, given in options.items()}


def _check_options(name: str, load: Any, given: dict[str, Any]) -> None:
    """Refuse what the loader does not take, with the nearest option that it does."""
    common = {"seed", "eval_size", "rewards", "reward_options"}
    parameters = inspect.signature(load).parameters.values()
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - common
    valid = [*sorted(own - {"chat"}), "chat"]
    for option in given:
        if option not in valid:
            raise ConfigError(
                f"task {name} has no option {option!r}.{did_you_mean(option, valid)} "
                f"Its options are: {', '.join(valid)}."
            )


def _with_rewards(task: Task, names: tuple[str, ...] | None, options: Mapping[str, Mapping[str, Any]]) -> Task:
    """The task scored by these; a scorer that can read none of its gold answers is refused."""
    if names is None:
        return task
    chosen: list[RewardFn] = []
    for name in names:
        if name == "task":
            chosen.extend(task.reward_funcs)
            continue
        golds = task.train["answer"]
        if not any(can_score(name, gold) for gold in golds):
            raise DataError(
                f"task {task.name}: the reward {name} can read none of its gold answers, such as {golds[0]!r}. Choose "
                "another reward; 'task' is the task's own."
            )
        chosen.append(get_reward(name, **options.get(name, {})))
    return replace(task, reward_funcs=tuple(chosen))
