"""What the model reads: the one place that turns a row's prompt into messages, text and tokens.

Training, held-out accuracy, `eval_task`, `dgpo eval`, `dgpo inspect` and the dry run all ask here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgpo.errors import ConfigError
from dgpo.lab.limits import limited
from dgpo.lab.tasks.columns import Columns
from dgpo.lab.tasks.layouts import Message, Prompt, as_chat

_SECONDS, _MEGABYTES, _LONGEST = 10.0, 1024, 10_000_000
_REMEDY = (
    "Give it what it asks for (chat_template_kwargs, system_prompt), mend chat_template of the model, or leave it out "
    "with chat: false."
)


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are put to a model.

    Attributes:
        chat: Whether through the tokenizer's chat template; None where it has one.
        template_kwargs: What the template is given, such as `{"enable_thinking": False}`.

    Raises:
        ConfigError: If `chat` is neither a boolean nor None.
    """

    chat: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_chat(self.chat)

    def uses_chat(self, tokenizer: Any) -> bool:
        """Return whether prompts go through the chat template of this tokenizer.

        Args:
            tokenizer: The model's tokenizer.

        Returns:
            Whether they do.

        Raises:
            ConfigError: If `chat` is true and there is no template.
        """
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if self.chat and not has_template:
            raise ConfigError(
                "chat is true, and the tokenizer of the model has no chat template. Take a model with one (an "
                "instruct model), or leave chat out."
            )
        return has_template if self.chat is None else self.chat

    def form(self, prompt: Prompt, tokenizer: Any) -> Prompt:
        """Return a prompt as the trainer takes it: messages where the template is used, one text elsewhere.

        Args:
            prompt: A text, or chat messages.
            tokenizer: The model's tokenizer.

        Returns:
            Messages or a text; the contents of messages are joined by blank lines.

        Example:
            >>> import types
            >>> PromptFormat().form("1 + 1?", types.SimpleNamespace(chat_template="..."))
            [{'role': 'user', 'content': '1 + 1?'}]
            >>> PromptFormat(chat=False).form([{"role": "user", "content": "1 + 1?"}], None)
            '1 + 1?'
        """
        if self.uses_chat(tokenizer):
            return as_chat(prompt, None)
        return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)

    def text(self, prompt: Prompt, tokenizer: Any) -> str:
        """Return a prompt as the text that is tokenized, the template's marks included.

        Args:
            prompt: A text, or chat messages.
            tokenizer: The model's tokenizer.

        Returns:
            The text; special tokens that the tokenizer puts in front of a plain text are not in it.

        Raises:
            ConfigError: If the template raises, or does not end with a text of bounded length in bounded time.
        """
        formed = self.form(prompt, tokenizer)
        if isinstance(formed, str):
            return formed
        options = {"add_generation_prompt": True, "tokenize": False, **self.template_kwargs}
        try:
            with limited(_SECONDS, _MEGABYTES):
                text = tokenizer.apply_chat_template(formed, **options)
        except Exception as error:  # it is a program, of somebody's
            raise ConfigError(_template_fault(error, formed)) from error
        if not isinstance(text, str):
            raise ConfigError(
                f"the chat template gave a {type(text).__name__} and no text; chat_template_kwargs are for the template"
                f" itself, and hold {', '.join(map(str, self.template_kwargs)) or 'nothing'}."
            )
        if len(text) > _LONGEST:
            raise ConfigError(f"the chat template made {len(text):,} characters of a prompt. {_REMEDY}")
        return text

    def ids(self, prompt: Prompt, tokenizer: Any) -> list[int]:
        """Return a prompt as token ids, the same that the trainer generates from.

        Args:
            prompt: A text, or chat messages.
            tokenizer: The model's tokenizer.

        Returns:
            The ids.
        """
        special = {"add_special_tokens": False} if self.uses_chat(tokenizer) else {}
        return list(tokenizer(self.text(prompt, tokenizer), **special)["input_ids"])

    def apply(self, rows: Columns, tokenizer: Any) -> Columns:
        """Return rows whose prompts have the trainer's form.

        Args:
            rows: With a column `prompt`.
            tokenizer: The model's tokenizer.

        Returns:
            Rows in the same order.
        """
        return rows.with_column("prompt", [self.form(prompt, tokenizer) for prompt in rows["prompt"]])


def _template_fault(error: Exception, messages: list[Message]) -> str:
    """Say in one line what a template raised, and for which prompt."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, MemoryError):
        reason = f"it asked for more than {_MEGABYTES} MiB"
    roles = ", ".join(message["role"] for message in messages)
    return f"the chat template of the model cannot render a prompt ({roles}): {reason:.300}. {_REMEDY}"


def check_chat(chat: Any) -> None:
    """Refuse a value of `chat` that is not true, false or None: a word would count as true.

    Args:
        chat: The value.

    Raises:
        ConfigError: For another value.

    Example:
        >>> check_chat("no")
        Traceback (most recent call last):
        dgpo.errors.ConfigError: chat is 'no'; it must be true or false, or left out: ...
    """
    if chat is not None and not isinstance(chat, bool):
        raise ConfigError(
            f"chat is {chat!r}; it must be true or false, or left out: the chat template is then used where the "
            "model's tokenizer has one."
        )
