"""Hints that a reference is shown: the settings of every engine, and how a hint and a prompt are put together.

Known without torch, which takes seconds to load.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dgpo.config import CreditConfig
from dgpo.core import HINDSIGHT_STATS
from dgpo.errors import ConfigError
from dgpo.rules import CreditRule

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATES = {
    "gold": "Hint: the answer to the following problem is {hint}\n\n{prompt}",
    "peer": "Hint: a correct solution of the following problem is:\n{hint}\n\n{prompt}",
}
"""How a hint is shown by default; that of another column is shown as an answer is."""

OTHER = "other"
"""The value of `hint_control` for the hint of another prompt."""

PLAIN = "plain"
"""The value of `hint_control` for the prompt without any hint."""

_CUT = " [...] "


@dataclass
class HintSettings(CreditConfig):
    """Settings of a rule that reads a hint, for every engine; `DGPOConfig` describes them."""

    hint: str | None = field(
        default=None, metadata={"help": "What the reference is shown: 'gold', 'peer' or a column of the data set."}
    )
    hint_template: str | None = field(
        default=None,
        metadata={
            "help": "How prompt and hint are put together, with {prompt} and {hint}; '{hint}': it is the prompt."
        },
    )
    hint_control: str | None = field(
        default=None,
        metadata={"help": "What the hint is compared with: 'other' prompt's hint (default), a column, 'plain': none."},
    )
    hint_max_length: int = field(default=512, metadata={"help": "Longest hint in tokens."})
    hint_min_reward: float = field(
        default=1.0, metadata={"help": "Smallest reward of a completion that is shown to others as 'peer'."}
    )

    def check_hint(self, rule: CreditRule, prefix: str = "") -> None:
        """Refuse settings of a hint that cannot work; of a rule that reads one, set `hint` and `hint_control`.

        Args:
            rule: What `resolve_rule` gave.
            prefix: Stands in front of the names of settings in messages.

        Raises:
            ConfigError: Naming the value and the remedy.
        """
        if not rule.traits.needs_hint:
            for setting in ("hint", "hint_control"):
                value = getattr(self, setting)
                if value is not None:
                    name = f"{prefix}rule" if prefix else "credit_rule"
                    raise ConfigError(
                        f"{prefix}{setting}={value!r} is read by no credit rule: {rule.name} reads none of"
                        f" {', '.join(HINDSIGHT_STATS)}. Use {name}='hindsight', or leave {setting} out."
                    )
            return
        self.hint, self.hint_control = self.hint or "gold", self.hint_control or OTHER
        check_template(self.hint_template, f"{prefix}hint_template")
        if self.hint_control == OTHER and "{prompt}" not in template_of(self):
            raise ConfigError(
                f"{prefix}hint_template={self.hint_template!r} makes the hint a whole prompt, and"
                f" {prefix}hint_control='other', the default, would compare it with another question. Name a column of"
                " prompts to compare with, say the same ones with a wrong hint; or put {prompt} into the template; or"
                f" set {prefix}hint_control='plain', for a model that was taught to read hints."
            )
        length, least = self.hint_max_length, self.hint_min_reward
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ConfigError(f"{prefix}hint_max_length is {length!r}; it counts tokens, 1 at least.")
        if isinstance(least, bool) or not isinstance(least, int | float):
            raise ConfigError(f"{prefix}hint_min_reward is {least!r}; it is the smallest reward of a right completion.")


def check_template(template: str | None, name: str) -> None:
    """Refuse a template without a hint.

    Args:
        template: How prompt and hint are put together; None for the default.
        name: Of the setting.

    Raises:
        ConfigError: Naming the value and the remedy.
    """
    if template is not None and "{hint}" not in template:
        raise ConfigError(
            f"{name}={template!r} must contain {{hint}}, and {{prompt}} unless the hint is a whole prompt, such as 'The"
            " answer is {hint}. {prompt}'."
        )


def template_of(settings: HintSettings) -> str:
    """Return how prompt and hint are put together, with `{hint}` and as a rule `{prompt}`."""
    return settings.hint_template or TEMPLATES.get(settings.hint or "gold", TEMPLATES["gold"])


def other_hints(hints: Sequence[str | None], group: Sequence[int]) -> list[str | None]:
    """Return for each completion the hint that its own one is compared with: the next other prompt's.

    A hint changes how a model writes, whatever it says. Compared with the hint of another prompt, what both change
    alike cancels, and what this one says is left. The next one in the order of the completions, and after the last one
    the first.

    Args:
        hints: Of the completions, None where there is none.
        group: Which prompt each belongs to.

    Returns:
        Texts that differ from the completion's own; None where it has no hint, or there is no such one.

    Example:
        >>> other_hints(["7", "7", "9", None], [0, 0, 1, 2])
        ['9', '9', '7', None]
    """
    # Completions of a prompt stand side by side as a rule and have one hint: runs are few where completions are many.
    runs = [(key, len(list(rows))) for key, rows in groupby(zip(hints, group, strict=True))]

    def of(place: int) -> str | None:
        (mine, prompt), _ = runs[place]
        following = (key for key, _ in runs[place + 1 :] + runs[:place])
        return next((hint for hint, other in following if hint and hint != mine and other != prompt), None)

    return [other for place, ((hint, _), rows) in enumerate(runs) for other in [of(place) if hint else None] * rows]


def best_sibling(rewards: "Tensor", group: "Tensor", lengths: "Tensor", least: float) -> list[int | None]:
    """Return for each completion the right one of the same prompt that it is shown.

    The one of largest reward, of those the shortest, of those the first; never a completion itself.

    Args:
        rewards: (B,), nan where nothing was scored.
        group: (B,) int64, which prompt a completion belongs to.
        lengths: (B,), of the completions.
        least: Smallest reward of a completion that is shown.

    Returns:
        Rows, None where there is no right sibling.

    Example:
        >>> import torch
        >>> best_sibling(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 0]), torch.tensor([9, 5, 7]), least=1.0)
        [2, 2, 0]
    """
    right = [row for row in range(len(rewards)) if float(rewards[row]) >= least]  # nan is no reward, and has no order
    right.sort(key=lambda row: (-float(rewards[row]), int(lengths[row]), row))
    ids = group.tolist()
    return [next((row for row in right if row != mine and ids[row] == ids[mine]), None) for mine in range(len(ids))]


def hint_text(value: Any) -> str | None:
    """Return what a column holds as a hint: several answers that are all right are shown as such.

    Args:
        value: A text, a number, a list or an array of them, or None or nan; neither is shown of a list.

    Returns:
        The text; None where there is none.

    Example:
        >>> hint_text(7), hint_text(["1/2", "0.5"]), hint_text(None)
        ('7', '1/2 or 0.5', None)
    """
    value = getattr(value, "tolist", lambda: value)()  # of what pandas reads, lists are arrays
    several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return " or ".join(str(one) for one in several if one is not None and one == one) or None  # nan: pandas' None


def cut_hint(tokenizer: Any, hint: str, max_length: int) -> str:
    """Return a hint of at most about `max_length` tokens: its first and its last ones.

    Args:
        tokenizer: Counts the tokens.
        hint: The text.
        max_length: In tokens.

    Returns:
        The text.
    """
    ids = tokenizer(hint, add_special_tokens=False)["input_ids"]
    if len(ids) <= max_length:
        return hint
    first = (max_length + 1) // 2
    parts = [ids[:first], ids[len(ids) - (max_length - first) :]] if max_length > first else [ids[:first]]
    return _CUT.join(tokenizer.decode(part, skip_special_tokens=True).strip() for part in parts)


def cut_hints(tokenizer: Any, hints: Sequence[str | None], max_length: int) -> list[str | None]:
    """Return hints that are cut by `cut_hint`, None for those that are None or empty."""
    return [cut_hint(tokenizer, hint, max_length) if hint else None for hint in hints]


def hinted_prompt(prompt: Any, hint: str, template: str) -> Any:
    """Return a prompt with a hint.

    Args:
        prompt: A text, or chat messages, of which the last one of the user is changed.
        hint: The text.
        template: With `{prompt}` and `{hint}`, or with `{hint}` alone, which then is a whole prompt: worked examples
            that show hints themselves, say. Other braces stand for themselves.

    Returns:
        The same kind of prompt.

    Example:
        >>> hinted_prompt("2 + 2 =", "4", "({hint}) {prompt}")
        '(4) 2 + 2 ='
        >>> hinted_prompt("1 + 1 = 2, 2 + 2 =", "1 + 1 (2) = 2, 2 + 2 (4) =", "{hint}")
        '1 + 1 (2) = 2, 2 + 2 (4) ='
        >>> hinted_prompt([{"role": "user", "content": "2 + 2 ="}], "4", "({hint}) {prompt}")
        [{'role': 'user', 'content': '(4) 2 + 2 ='}]
    """
    if isinstance(prompt, str):
        return prompt.join(part.replace("{hint}", hint) for part in template.split("{prompt}", 1))
    last = max((index for index, message in enumerate(prompt) if message["role"] == "user"), default=len(prompt) - 1)
    content = prompt[last]["content"]
    if not isinstance(content, str):  # blocks
        changed = [hinted_prompt(block["text"], hint, template) if "text" in block else None for block in content]
        blocks = [dict(one, text=text) if text else one for one, text in zip(content, changed, strict=True)]
        return [*prompt[:last], dict(prompt[last], content=blocks), *prompt[last + 1 :]]
    return [*prompt[:last], dict(prompt[last], content=hinted_prompt(content, hint, template)), *prompt[last + 1 :]]
