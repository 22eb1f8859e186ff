"""Secrets by name or form: found, so that they can be refused, and hidden in whatever is stored."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"

# Names of settings that hold a secret. Not every `*_token`: `eos_token` and its like are words of a vocabulary.
_NAME = re.compile(
    r"(?:^|.*[_.-])(?:(?:hub|hf|auth|access|api|bearer|refresh|session|wandb|github|secret)[_-]?(?:token|key)s?"
    r"|api[_-]?keys?|secrets?|passwords?|passwd|passphrase|credentials?|authorization|private[_-]?key"
    r"|(?:secret|aws)[_-]access[_-]key(?:[_-]id)?)$|^tokens?$",
    re.IGNORECASE,
)
# <think>, [INST], |end|: words of a vocabulary that an option called `token` may well hold.
_SPECIAL = re.compile(r"\s*(?:<.*>|\[.*\]|\|.*\|)?\s*", re.DOTALL)

# Forms that services give their secrets.
_FORM = re.compile(
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{20,}|gsk_[A-Za-z0-9]{20,}"  # OpenAI, Anthropic, Groq
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|ya29\.[0-9A-Za-z_-]{20,}"  # Amazon, Google
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}"
    r"|wandb_v1_[A-Za-z0-9_]{16,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----)?"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # https://user:password@host
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=[?&])(?:[a-z_-]*token|api[_-]?key|key|password|secret|sig(?:nature)?)=[^&\s]+",
    re.IGNORECASE | re.DOTALL,
)
_SHORTEST = 8  # of a secret in the environment that is looked for in texts


def find_secrets(value: Any) -> list[str]:
    """Return where a value holds secrets: texts under a name such as `token` or `api_key`, and texts of their form.

    Args:
        value: Nested mappings, lists, dataclasses and plain values. A text that is a JSON object is looked into.

    Returns:
        Dotted names; `""` for the value itself.

    Example:
        >>> find_secrets({"model_init_kwargs": {"token": "abc", "revision": "main"}, "eos_token": "</s>"})
        ['model_init_kwargs.token']
        >>> find_secrets({"url": "https://me:pw@host/v1", "note": "hf_" + 20 * "a"})
        ['url', 'note']
    """
    return [".".join(path) for path, found in _walk(value, ()) if found]


def hide_secrets(value: Any) -> Any:
    """Return a copy in which secrets are replaced by `<hidden>`; of a text, the part that has their form.

    Args:
        value: As for `find_secrets`.

    Returns:
        The same values where they hold no secret; lists and mappings that hold one are copied.

    Example:
        >>> hide_secrets({"token": "abc", "url": "https://me:pw@host/v1", "seed": 1})
        {'token': '<hidden>', 'url': 'https://<hidden>@host/v1', 'seed': 1}
    """
    return _hidden(value, "")


def hide_in_text(text: str) -> str:
    """Return a text without what has the form of a secret, or is the value of one of this process's environment.

    Args:
        text: A message or a traceback.

    Returns:
        The text, with `<hidden>` in the places.

    Example:
        >>> hide_in_text("401 for https://me:pw@host with hf_" + 20 * "a")
        '401 for https://<hidden>@host with <hidden>'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _is_secret_name(name):
            text = text.replace(value, HIDDEN)
    return _FORM.sub(HIDDEN, text)


def _is_secret_name(name: str) -> bool:
    return len(name) < 200 and _NAME.match(name) is not None


def _is_secret(name: str, text: str) -> bool:
    return bool(_is_secret_name(name) and not _SPECIAL.fullmatch(text)) or _FORM.search(text) is not None


def _walk(value: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], bool]]:
    """Every text with its names; those in a list count as the list's."""
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        name = path[-1] if path else ""
        inside = None if _is_secret_name(name) else _json_object(text)
        return [(path, _is_secret(name, text))] if inside is None else _walk(inside, path)
    if isinstance(value, Mapping):
        keys = [((*path, HIDDEN), True) for key in value if isinstance(key, str) and _FORM.search(key)]
        return keys + [found for key, item in value.items() for found in _walk(item, (*path, str(key)))]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [found for item in value for found in _walk(item, path)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _walk({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, path)
    return []


def _json_object(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _hidden(value: Any, name: str) -> Any:
    if not _any_secret(value, name):
        return value
    if isinstance(value, str):
        inside = None if _is_secret_name(name) else _json_object(value)
        if inside is not None:
            return json.dumps(_hidden(inside, ""))
        return HIDDEN if _is_secret_name(name) else _FORM.sub(HIDDEN, value)
    if isinstance(value, Mapping):
        return {_FORM.sub(HIDDEN, key) if isinstance(key, str) else key: _hidden(value[key], str(key)) for key in value}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_hidden(item, name) for item in value]
    return HIDDEN  # bytes, a dataclass


def _any_secret(value: Any, name: str) -> bool:
    return any(found for _, found in _walk(value, (name,)))
