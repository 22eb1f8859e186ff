"""Which columns of a table are the prompt and the gold answer, and what a cell of them means."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dgpo.credit_log.answers import ANSWER_COLUMNS, VERL_ANSWER
from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards.extraction import last_boxed
from dgpo.lab.rewards.numbers import parse_number
from dgpo.names import did_you_mean

Message = dict[str, str]
Prompt = str | list[Message]
Gold = str | list[str]
"""A gold answer, or several of which one is enough; `""` for none."""

PROMPT_COLUMNS = ("problem", "question", "prompt")


class Columns(NamedTuple):
    """Where the prompt and the gold answer of a row are; a dot leads into a struct, `""` is no column."""

    prompt: str
    answer: str

    def to_read(self, available: Sequence[str]) -> list[str]:
        """Return the columns to read: themselves, or the structs that they lie in.

        Args:
            available: The columns there are.

        Returns:
            Different columns.

        Example:
            >>> Columns("prompt", "reward_model.ground_truth").to_read(["prompt", "reward_model"])
            ['prompt', 'reward_model']
        """
        return list(dict.fromkeys(name if name in available else name.split(".")[0] for name in self if name))


def find_columns(
    columns: Sequence[str],
    where: str,
    *,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    needs_answer: bool = True,
) -> Columns:
    """Return which columns hold the prompt and the gold answer.

    Known layouts, in this order: `prompt` with `reward_model.ground_truth` (DAPO-Math-17k, verl); the first of
    `PROMPT_COLUMNS` with the first of `ANSWER_COLUMNS`. Case does not count.

    Args:
        columns: The columns there are.
        where: What error messages call the table.
        prompt_column: The prompt's column, if it is named; `messages.text` leads into a struct.
        answer_column: The gold answer's.
        needs_answer: Whether there must be a gold answer.

    Returns:
        Both columns; `""` where there is no gold answer.

    Raises:
        DataError: If there is no such column.

    Example:
        >>> find_columns(["id", "Question", "answer"], "data.csv")
        Columns(prompt='Question', answer='answer')
        >>> find_columns(["prompt", "reward_model", "extra_info"], "dapo.parquet").answer
        'reward_model.ground_truth'
    """
    for given, option in ((prompt_column, "prompt_column"), (answer_column, "answer_column")):
        if given is not None and not (isinstance(given, str) and given):
            raise ConfigError(f"{option} is {given!r:.60}; it must be the name of a column, a text.")
    by_lower = {column.casefold(): column for column in reversed(columns)}
    for given, option in ((prompt_column, "prompt_column"), (answer_column, "answer_column")):
        if given is not None and given not in columns and str(given).split(".")[0] not in columns:
            hint = did_you_mean(str(given), columns)
            raise DataError(f"{where} has no column {given!r} ({option}).{hint} It has: {', '.join(columns)}.")
    if answer_column is None and {"prompt", "reward_model"} <= by_lower.keys():
        answer_column = by_lower["reward_model"] + VERL_ANSWER[len("reward_model") :]
        prompt_column = prompt_column or by_lower["prompt"]
    prompt = prompt_column or next((by_lower[name] for name in PROMPT_COLUMNS if name in by_lower), None)
    answer = answer_column or next((by_lower[name] for name in ANSWER_COLUMNS if name in by_lower), None)
    if answer is None and not needs_answer:
        answer = ""
    if prompt is None or answer is None:
        missing = " and no ".join(
            kind for kind, name in (("prompt column", prompt), ("answer column", answer)) if name is None
        )
        apart = " Columns of a .csv are separated by commas." if len(columns) == 1 and ";" in columns[0] else ""
        raise DataError(
            f"{where} has no {missing} that is recognised; it has: {', '.join(columns)}.{apart} Expected one of "
            f"{', '.join(PROMPT_COLUMNS)} for the prompt and one of {', '.join(ANSWER_COLUMNS)}, {VERL_ANSWER} for "
            "the gold answer; or name yours with prompt_column and answer_column."
        )
    if prompt == answer:
        raise DataError(
            f"{where}: {prompt!r} would be both the prompt and the gold answer. Name two columns with prompt_column "
            f"and answer_column; it has: {', '.join(columns)}."
        )
    return Columns(prompt, answer)


def cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return the value of a column, `None` if the row lacks it; a dot leads into a struct.

    Args:
        row: The row.
        column: The column.
        where: What error messages call the row.

    Returns:
        The value.

    Raises:
        DataError: If the path leads through something that is no struct.

    Example:
        >>> cell({"reward_model": {"ground_truth": "34"}}, "reward_model.ground_truth", "row 0")
        '34'
    """
    value: Any = row
    for part in [column] if column in row else column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: {column} leads into a {type(value).__name__}, which has no {part!r}.")
        value = value.get(part)
    return value


def as_prompt(value: Any, where: str) -> Prompt | None:
    """Return a prompt as text or as chat messages, or `None` if it is blank.

    Args:
        value: A text, or a list of messages `{role, content}` of which the last one is the user's.
        where: What error messages call the row.

    Returns:
        The prompt.

    Raises:
        DataError: If it is neither, or the assistant has already answered.

    Example:
        >>> as_prompt([{"content": "1 + 1?", "role": "user", "name": None}], "row 0")
        [{'role': 'user', 'content': '1 + 1?'}]
    """
    if value is None or isinstance(value, str):
        return whole_text(value, where) if value and value.strip() else None
    if not isinstance(value, list) or not all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    ):
        raise DataError(
            f"{where}: the prompt is a {type(value).__name__}; it must be a text or a list of messages with role and "
            "content."
        )
    if not value:
        return None
    if value[-1]["role"] != "user":
        raise DataError(
            f"{where}: the last message of the prompt is the {value[-1]['role']}'s; it must be the user's, for the "
            "model to answer."
        )
    return [
        {"role": whole_text(message["role"], where), "content": whole_text(message["content"], where)}
        for message in value
    ]


def whole_text(text: str, where: str) -> str:
    """Return a text; raise if it holds half of a character, which JSON can write and no file or tokenizer takes.

    Args:
        text: A text.
        where: What error messages call its place.

    Returns:
        The same text.

    Raises:
        DataError: If it holds a lone surrogate.

    Example:
        >>> whole_text("half \\ud83d", "row 0")
        Traceback (most recent call last):
        dgpo.errors.DataError: row 0: character 5 of a text is half of a character (the lone surrogate U+D83D). ...
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} of a text is half of a character (the lone surrogate "
            f"U+{ord(text[error.start]):04X}). Repair the text, or take the row out."
        ) from None
    return text


def as_gold(value: Any, where: str) -> Gold:
    """Return the gold answer as text, `""` if there is none; of a list, the acceptable answers.

    A worked solution is reduced to its result: what follows `####` (GSM8K), else what its last `\\boxed{}` holds.

    Args:
        value: A text, a number, or a list of them.
        where: What error messages call the row.

    Returns:
        The answer, or a list of at least two.

    Raises:
        DataError: If it is something else.

    Example:
        >>> as_gold("2 + 3 = 5, times 200 is 1,000.\\n#### 1,000", "row 0")
        '1000'
        >>> as_gold("so $x = \\\\boxed{\\\\frac{1}{2}}$.", "row 0")
        '\\\\frac{1}{2}'
        >>> as_gold(["New York", "NYC"], "row 0")
        ['New York', 'NYC']
    """
    if isinstance(value, list):
        golds = [gold for part in value if (gold := _single_gold(part, where))]
        return golds if len(golds) > 1 else golds[0] if golds else ""
    return _single_gold(value, where)


def _single_gold(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, Mapping)):
        raise DataError(
            f"{where}: the gold answer is a {type(value).__name__}; it must be a text, a number or a list of them. A "
            "field of a struct is named with a dot, such as answer_column: reward_model.ground_truth."
        )
    text = whole_text(str(value).strip(), where)
    _, marker, result = text.rpartition("####")
    if marker:
        number = parse_number(result)
        return result.strip() if number is None else f"{number:f}"
    return (last_boxed(text) or "").strip() or text


def fill_template(template: str | None, prompt: Prompt) -> Prompt:
    """Return the prompt with its last message put in the place of `{prompt}` in the template.

    Args:
        template: A text with `{prompt}`; other braces stand for themselves. `None` changes nothing.
        prompt: The prompt.

    Returns:
        A prompt of the same kind.

    Raises:
        ConfigError: If the template has no `{prompt}`.

    Example:
        >>> fill_template("Q: {prompt}\\nA:", "1 + 1")
        'Q: 1 + 1\\nA:'
    """
    if template is None:
        return prompt
    if "{prompt}" not in template:
        raise ConfigError(f"prompt_template {template!r} must contain {{prompt}}, where the prompt goes.")
    if isinstance(prompt, str):
        return template.replace("{prompt}", prompt)
    return [*prompt[:-1], {**prompt[-1], "content": template.replace("{prompt}", prompt[-1]["content"])}]


def as_chat(prompt: Prompt, system_prompt: str | None) -> list[Message]:
    """Return the prompt as chat messages, with this system prompt in place of any it had.

    Args:
        prompt: A text becomes the user's message.
        system_prompt: `None` keeps what is there.

    Returns:
        Messages.

    Example:
        >>> as_chat("1 + 1", "Be brief.")
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '1 + 1'}]
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system_prompt is None:
        return messages
    own = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system_prompt}, *own] if system_prompt else own
