"""The credit that a text would get, for any pair of models, without training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo.engines.hints import check_template
from dgpo.errors import ConfigError, DataError
from dgpo.lab.foreign_text import say

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class InspectRequest:
    """What to score, and how.

    Attributes:
        model: The policy: a folder, a hub id, or `forks`.
        reference: The model to compare with.
        text: A file whose text is scored.
        prompt: What stands before the text; without a text, an answer to it is sampled.
        plain: Leave the chat template out.
        chat_template_kwargs: What the chat template is given.
        max_tokens: Longest answer to sample, 1 or more.
        rule: The credit rule: a name, `module:function` or `file.py:function`.
        options: Its options.
        tau: The same as `options["tau"]`; None for the rule's own.
        kappa: Likewise.
        hint: What the reference is shown, for a rule that reads it; it goes into the prompt.
        hint_template: How the two are put together, with `{prompt}` and `{hint}`, or `{hint}` alone, a whole prompt;
            None for the training's own.
        hint_control: Another hint, which the first one is compared with; None: the plain prompt.
        temperature: Of both distributions and the sampling, above 0.
        seed: Of the sampling.
        output: The page; by default `inspect.html`.
    """

    model: str
    reference: str
    text: Path | None = None
    prompt: str | None = None
    plain: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 256
    rule: str = "dgpo"
    options: dict[str, Any] = field(default_factory=dict)
    tau: float | None = None
    kappa: float | None = None
    hint: str | None = None
    hint_template: str | None = None
    hint_control: str | None = None
    temperature: float = 1.0
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is loaded."""
        if not self.prompt and self.text is None:
            raise ConfigError("dgpo inspect needs a text: --text FILE scores a file, --prompt '...' samples an answer.")
        for name in ("tau", "temperature", "max_tokens"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}.")
        if self.kappa is not None and self.kappa < 0:
            raise ConfigError(f"--kappa must be at least 0, got {self.kappa}. 0 is no entropy gate.")
        self._check_hint()
        for name in ("tau", "kappa"):
            value = getattr(self, name)
            if value is not None and name in self.options:
                raise ConfigError(f"--{name} and --options.{name} are the same option; give one of them.")
            if value is not None:
                self.options = {**self.options, name: value}

    def _check_hint(self) -> None:
        if self.hint is None:
            for name in ("hint_template", "hint_control"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option} needs --hint, the text that the reference is shown.")
            return
        if not self.hint or not self.prompt:
            raise ConfigError(f"--hint goes into a prompt; give --prompt and a hint, got {self.hint!r} for the latter.")
        check_template(self.hint_template, "--hint-template")


def inspect_pair(request: InspectRequest) -> None:
    """Write the page of a text and two models, and print where it is.

    Args:
        request: What to score.

    Raises:
        DgpoError: For models that cannot be compared, or input that cannot work.
    """
    text = _text(request)
    from dgpo.credit_log import LoggedStep
    from dgpo.engines.hints import TEMPLATES, hinted_prompt
    from dgpo.engines.offline import check_offline_rule, score_text
    from dgpo.lab.quiet import quiet_libraries
    from dgpo.lab.report.files import write_page
    from dgpo.lab.report.page import render_page
    from dgpo.lab.runs.reader import Run
    from dgpo.rules import resolve

    rule = resolve(request.rule, **request.options)
    check_offline_rule(rule, has_hint=request.hint is not None)
    quiet_libraries()
    policy, reference, tokenizer = _load(request)
    prompt_ids = _prompt_ids(request, tokenizer, request.prompt or "")
    hints: dict[str, Any] = {}
    if request.hint is not None:
        texts = {"hinted_ids": request.hint, "control_ids": request.hint_control}
        template = request.hint_template or TEMPLATES["gold"]
        hints = {
            name: _prompt_ids(request, tokenizer, hinted_prompt(request.prompt, text, template))
            for name, text in texts.items()
            if text is not None
        } | {"hint": request.hint, "control": request.hint_control}
    if text is None:
        prompt_ids, ids = _sampled(request, policy, prompt_ids)
    else:
        prompt_ids, ids = _read(tokenizer, policy, prompt_ids, text)
    given = {"rule": rule, "temperature": request.temperature, **hints}
    completion = score_text(policy, reference, tokenizer, prompt_ids, ids, **given)
    run = Run(Path(request.model).name, steps=[LoggedStep(0, rule.describe(), [completion])])
    facts = {"policy": request.model, "reference": request.reference, "rule": rule.name}
    for name, value in {**rule.options, "temperature": request.temperature}.items():
        facts[name] = f"{value:g}" if isinstance(value, float) else str(value)
    title = f"{Path(request.model).name} against {Path(request.reference).name}"
    write_page(request.output or Path("inspect.html"), render_page([run], kind="inspect", title=title, facts=facts))


def _text(request: InspectRequest) -> str | None:
    if request.text is None:
        return None
    try:
        text = request.text.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{request.text} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{request.text} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if not text:
        raise DataError(f"{request.text} is empty; there is no token to show.")
    return str(text)


def _load(request: InspectRequest) -> tuple[Any, Any, Any]:
    """The two models and their tokenizer; what does not fit is refused before weights are read, where it can be."""
    from dgpo.lab.evaluation.loading import adapter_base, load_model, load_tokenizer, named_model

    names = (request.model, request.reference)
    paths = [named_model(name) for name in names]
    tokenizers = [load_tokenizer(path) for path in paths]
    _refuse_other_vocabulary(names, tokenizers)
    # 16-bit numbers would round the small changes of an adapter away.
    dtype = "float32" if any(map(adapter_base, paths)) else "auto"
    models = [load_model(path, dtype=dtype) for path in paths]
    sizes = [model.get_output_embeddings().weight.shape[0] for model in models]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"vocabulary sizes differ: {names[0]} {sizes[0]}, {names[1]} {sizes[1]}. The distance compares"
            " distributions over one vocabulary; choose a reference with the same one."
        )
    return models[0], models[1], tokenizers[0]


def _refuse_other_vocabulary(names: tuple[str, str], tokenizers: Sequence[Any]) -> None:
    """The same ids must mean the same tokens, or the distance compares nothing."""
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    for token, index in theirs.items():
        if ours.get(token) != index:
            given = f"gives it {ours[token]}" if token in ours else "does not have it"
            raise ConfigError(
                f"{names[1]} has another tokenizer ({len(theirs)} tokens, {names[0]} {len(ours)}): its token {token!r}"
                f" has id {index}, {names[0]} {given}. Choose a reference with the same tokenizer."
            )


def _prompt_ids(request: InspectRequest, tokenizer: Any, prompt: str) -> "Tensor":
    """Ids of the prompt: through the chat template where the tokenizer has one, as in training and `dgpo eval`."""
    import torch

    from dgpo.lab.tasks.prompting import PromptFormat

    prompts = PromptFormat(False if request.plain or not request.prompt else None, request.chat_template_kwargs)
    return torch.tensor(prompts.ids(prompt, tokenizer), dtype=torch.long)


def _context(model: Any) -> int:
    from dgpo.engines.offline import MAX_TOKENS

    return min(MAX_TOKENS, getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS)


def _sampled(request: InspectRequest, policy: Any, prompt_ids: "Tensor") -> "tuple[Tensor, Tensor]":
    """Ids of the prompt and of a completion that the policy samples."""
    import torch

    room = _context(policy) - len(prompt_ids)
    if room < 1 or not len(prompt_ids):
        raise DataError(f"The prompt has {len(prompt_ids)} tokens and the model reads {_context(policy)}.")
    torch.manual_seed(request.seed)
    prompt = prompt_ids[None].to(policy.device)
    output = policy.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=min(request.max_tokens, room),
        do_sample=True,
        temperature=request.temperature,
        top_k=0,
        top_p=1.0,
    )
    return prompt_ids, output[0, len(prompt_ids) :].cpu()


def _read(tokenizer: Any, policy: Any, prompt_ids: "Tensor", text: str) -> "tuple[Tensor, Tensor]":
    """Ids of what stands before the text, never empty, and of as much of the text as the model can read."""
    import torch

    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    if not len(prompt_ids):
        start = tokenizer.bos_token_id
        # Without a first token, the text's own first one can only be read, not scored.
        prompt_ids, ids = (torch.tensor([start]), ids) if start is not None else (ids[:1], ids[1:])
    longest = max(0, _context(policy) - len(prompt_ids))
    if len(ids) > longest > 0:
        say(f"Only the first {longest:,} of {len(ids):,} tokens are scored: the model reads no more.")
    if not len(ids[:longest]):
        raise DataError("There is no token to score: the text is too short, or the prompt fills the model's context.")
    return prompt_ids, ids[:longest]
