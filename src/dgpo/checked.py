"""A guard around a reward function: one finite number per completion, and nothing lost when it fails."""

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from dgpo.errors import RewardError
from dgpo.secrets import hide_in_text

RewardFn = Callable[..., list[float | None]]

_EXCERPT = 200
# TRL's hooks into its log; called again while the culprit is looked for, they would log twice or refuse the length.
_LOG_HOOKS = ("log_extra", "log_metric")


def checked(reward_fn: Callable[..., Any], *, dump_dir: Path | None = None) -> Callable[..., Any]:
    """Return `reward_fn` with its results checked and its failures explained.

    The result must be one finite number or `None` per completion. When it is not, or the function raises, the first
    completion at fault is looked for by scoring one completion at a time, all prompts and completions of the batch are
    appended to `dump_dir/failed_rewards.jsonl`, and a `RewardError` says which function failed on which completion.

    A function without `**columns` gets those of TRL's arguments that it names.

    Args:
        reward_fn: TRL's reward function, `fn(prompts, completions, completion_ids, **columns)`. Of an asynchronous
            function only the result is checked. One that is checked already is returned as it is.
        dump_dir: Where to write a failed batch; `None` writes none.

    Returns:
        A function of the same name, called by keyword as TRL does, that returns a list of floats and `None`.

    Raises:
        RewardError: From the returned function; chained from what `reward_fn` raised.

    Example:
        >>> def length(completions, **columns):
        ...     return [1 / len(text) for text in completions]
        >>> checked(length)(prompts=["a", "a"], completions=["ok", "fine"])
        [0.5, 0.25]
        >>> checked(length)(prompts=["a", "a"], completions=["ok", ""])
        Traceback (most recent call last):
        dgpo.errors.RewardError: reward function 'length' failed on completion 1: ZeroDivisionError: division by zero...
    """
    if getattr(reward_fn, "is_checked", False):
        return reward_fn
    name, wanted = _name_of(reward_fn), _parameters(reward_fn)

    def named(columns: dict[str, Any]) -> dict[str, Any]:
        return columns if wanted is None else {key: value for key, value in columns.items() if key in wanted}

    def failure(error: Exception, call: dict[str, Any], fault: tuple[int | None, Exception]) -> RewardError:
        saved = _dump(dump_dir, name, *fault, call)
        return RewardError(_message(name, *fault, call) + saved)

    def scored(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        call = {**columns, "completions": completions}
        try:
            return _numbers(reward_fn(**named(call)), len(completions))
        except Exception as error:
            fault = _first_fault(lambda **part: reward_fn(**named(part)), call, error)
            raise failure(error, call, fault) from error

    async def scored_async(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        call = {**columns, "completions": completions}
        try:
            return _numbers(await reward_fn(**named(call)), len(completions))
        except Exception as error:
            raise failure(error, call, (getattr(error, "index", None), error)) from error

    is_async = inspect.iscoroutinefunction(reward_fn) or inspect.iscoroutinefunction(type(reward_fn).__call__)
    guard: Any = scored_async if is_async else scored
    functools.update_wrapper(guard, reward_fn, assigned=("__module__", "__doc__"), updated=())
    guard.__name__ = guard.__qualname__ = name
    guard.is_checked = True
    return guard  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names of what a function takes; None where it takes everything."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in C
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def all_checked(reward_funcs: Any, output_dir: str | None) -> Any:
    """Return TRL's reward functions with their results checked; reward models, and names of them, as they are.

    Args:
        reward_funcs: One, or a list.
        output_dir: Where a failed batch is written.

    Returns:
        The same, checked.
    """
    if isinstance(reward_funcs, list):
        return [all_checked(function, output_dir) for function in reward_funcs]
    # A reward model is a torch module; it can be called, and gives logits.
    if not callable(reward_funcs) or hasattr(reward_funcs, "named_parameters"):
        return reward_funcs
    return checked(reward_funcs, dump_dir=Path(output_dir) if output_dir else None)


class _BadResultError(ValueError):
    """What the function returned is not one finite number or None per completion; `index` where one is at fault."""

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason)
        self.index = index


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def _numbers(result: Any, count: int) -> list[float | None]:
    """The result as floats and None; raises on anything else."""
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, (str, bytes)) or not hasattr(result, "__iter__"):
        raise _BadResultError(f"it returned {type(result).__name__}, not a list of numbers")
    values = list(result)
    if len(values) != count:
        raise _BadResultError(
            f"it returned {len(values)} rewards for {count} completions; it must return one per completion"
        )
    return [_number(value, index) for index, value in enumerate(values)]


def _number(value: Any, index: int) -> float | None:
    if value is None:
        return None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise _BadResultError(
            f"it returned {value!r}; a reward is a finite number, or None for 'cannot be scored'", index
        )
    return float(value)


def _first_fault(reward_fn: RewardFn, kwargs: dict[str, Any], error: Exception) -> tuple[int | None, Exception]:
    """The first completion that fails on its own, and how; (None, error) if each one alone is scored."""
    if isinstance(error, _BadResultError) and error.index is not None:
        return error.index, error
    count = len(kwargs["completions"])
    for index in range(count):
        try:
            _numbers(reward_fn(**_only(kwargs, index, count)), 1)
        except Exception as alone:
            # A function that normalises over the batch may give nan for one completion: that is no wrong length.
            other_kind = isinstance(alone, _BadResultError) and alone.index is not None
            if type(alone) is type(error) and not other_kind:
                return index, alone
    return None, error


def _only(kwargs: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """The same call for one completion: columns are sliced, everything else is passed on."""
    return {
        key: _ignore if key in _LOG_HOOKS else [value[index]] if _is_column(value, count) else value
        for key, value in kwargs.items()
    }


def _is_column(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == count


def _ignore(*args: Any, **kwargs: Any) -> None:
    return None


def _message(name: str, index: int | None, cause: Exception, call: Mapping[str, Any]) -> str:
    completions = call["completions"]
    reason = str(cause) if isinstance(cause, _BadResultError) else f"{type(cause).__name__}: {cause}"
    if isinstance(cause, TypeError) and "required" in reason:
        reason += f" (it can get: {', '.join(call)})"
    elif isinstance(cause, (TypeError, AttributeError)) and completions and not isinstance(completions[0], str):
        reason += (
            " (the completions of chat prompts are lists of messages; dgpo.lab.rewards.completion_text(completion) is"
            " the text)"
        )
    if index is None:
        first = f" The first completion is {_excerpt(completions[0])}." if completions else ""
        return (
            f"reward function {name!r} failed on a batch of {len(completions)}, though it scores each completion "
            f"alone: {reason}.{first}"
        )
    return (
        f"reward function {name!r} failed on completion {index}: {reason}. "
        f"The completion is {_excerpt(completions[index])}."
    )


def _excerpt(completion: Any) -> str:
    text = completion
    if not isinstance(text, str):
        last = completion[-1] if isinstance(completion, Sequence) and completion else None
        text = last.get("content") if isinstance(last, Mapping) else None
        text = text if isinstance(text, str) else repr(completion)
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + " ...")


def _dump(dump_dir: Path | None, name: str, index: int | None, cause: Exception, kwargs: dict[str, Any]) -> str:
    """Append the batch to failed_rewards.jsonl; a sentence on where it is, or on why it is not."""
    if dump_dir is None:
        return ""
    count = len(kwargs["completions"])
    columns = {key: value for key, value in kwargs.items() if _is_column(value, count)}
    path = Path(dump_dir) / "failed_rewards.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for i in range(count):
                reason = hide_in_text(repr(cause)) if i == index else None
                row = {"reward_function": name, "index": i, "error": reason}
                row |= {key: value[i] for key, value in columns.items()}
                file.write(json.dumps(row, ensure_ascii=False, default=repr) + "\n")
    except OSError as error:
        return f" The batch could not be saved to {path} ({error.strerror or error})."
    return f" The batch of {count} is saved in {path}."
