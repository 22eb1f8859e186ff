"""`dgpo inspect MODEL --reference REF`: the credit that a text would get, for any pair of models, without training."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dgpo.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that every refusal looks alike."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see `dgpo inspect --help`.")


def inspect(words: Sequence[str]) -> int:
    """Write the page, print where it is, and return the exit code.

    Args:
        words: The words after `dgpo inspect`.

    Returns:
        0.

    Raises:
        DgpoError: For models that cannot be compared, or input that cannot work.
    """
    options = _parse(words)
    text = _text(options)
    from dgpo.credit_log import LoggedStep
    from dgpo.engines.offline import check_offline_rule, score_text
    from dgpo.lab.cli.report import write_page
    from dgpo.lab.quiet import quiet_libraries
    from dgpo.lab.report.page import render_page
    from dgpo.lab.runs.reader import Run
    from dgpo.rules import resolve

    rule = resolve(options.rule, **options.options)
    check_offline_rule(rule)
    quiet_libraries()
    policy, reference, tokenizer = _load(options)
    prompt_ids = _prompt_ids(options, tokenizer)
    if text is None:
        prompt_ids, ids = _sampled(options, policy, prompt_ids)
    else:
        prompt_ids, ids = _read(tokenizer, policy, prompt_ids, text)
    completion = score_text(policy, reference, tokenizer, prompt_ids, ids, rule=rule, temperature=options.temperature)
    run = Run(Path(options.model).name, steps=[LoggedStep(0, rule.describe(), [completion])])
    facts = {"policy": options.model, "reference": options.reference, "rule": rule.name}
    for name, value in {**rule.options, "temperature": options.temperature}.items():
        facts[name] = f"{value:g}" if isinstance(value, float) else str(value)
    title = f"{Path(options.model).name} against {Path(options.reference).name}"
    write_page(options.output or Path("inspect.html"), render_page([run], kind="inspect", title=title, facts=facts))
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser("dgpo inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--prompt", default=None)
    parser.add_argument("--text", type=Path, default=None)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rule", default="dgpo")
    parser.add_argument("--tau", type=float, default=None)
    parser.add_argument("--kappa", type=float, default=None)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=None)
    words, rule_options = _rule_options(words)
    is_option = [word.startswith("--") and "=" not in word for word in words]
    plain = [re.sub(r"(?<=\w)_", "-", word) if known else word for word, known in zip(words, is_option, strict=True)]
    options = parser.parse_args(plain)
    if not options.prompt and options.text is None:
        raise RecipeError("dgpo inspect needs a text: --text FILE scores a file, --prompt '...' samples an answer.")
    for name, lowest in (("tau", 0.0), ("temperature", 0.0), ("max_tokens", 0)):
        if getattr(options, name) is not None and not getattr(options, name) > lowest:
            raise RecipeError(f"--{name.replace('_', '-')} must be above 0, got {getattr(options, name)}.")
    if options.kappa is not None and options.kappa < 0:
        raise RecipeError(f"--kappa must be at least 0, got {options.kappa}. 0 is no entropy gate.")
    options.options = {name: getattr(options, name) for name in ("tau", "kappa") if getattr(options, name) is not None}
    for name in rule_options.keys() & options.options.keys():
        raise RecipeError(f"--{name} and --options.{name} are the same option; give one of them.")
    options.options |= rule_options
    return options


def _rule_options(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without `--options.NAME VALUE`, and those; a value is JSON, or text."""
    others: list[str] = []
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, equals, value = (word := rest.pop(0)).partition("=")
        if not name.startswith("--options."):
            others.append(word)
            continue
        if not equals and not rest:
            raise RecipeError(f"{name} needs a value, such as {name} 3.")
        text = value if equals else rest.pop(0)
        try:
            values[name.removeprefix("--options.")] = json.loads(text)
        except ValueError:
            values[name.removeprefix("--options.")] = text
    return others, values


def _text(options: argparse.Namespace) -> str | None:
    if options.text is None:
        return None
    try:
        text = options.text.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{options.text} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{options.text} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if not text:
        raise DataError(f"{options.text} is empty; there is no token to show.")
    return str(text)


def _load(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The two models and their tokenizer; what does not fit is refused before weights are read, where it can be."""
    from dgpo.lab.evaluation.loading import adapter_base, load_model, load_tokenizer
    from dgpo.lab.train.assemble import named_model

    names = (options.model, options.reference)
    paths = [named_model(name) for name in names]
    tokenizers = [load_tokenizer(path) for path in paths]
    _refuse_other_words(names, tokenizers)
    # 16-bit numbers would round the small changes of an adapter away.
    dtype = "float32" if any(map(adapter_base, paths)) else "auto"
    models = [load_model(path, dtype=dtype) for path in paths]
    sizes = [model.get_output_embeddings().weight.shape[0] for model in models]
    if sizes[0] != sizes[1]:
        raise RecipeError(
            f"The head of {names[0]} has {sizes[0]} words and that of {names[1]} {sizes[1]}; the distance compares"
            " distributions over the same words. Choose a reference with the same vocabulary."
        )
    return models[0], models[1], tokenizers[0]


def _refuse_other_words(names: tuple[str, str], tokenizers: Sequence[Any]) -> None:
    """The same ids must mean the same words, or the distance compares nothing."""
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    for word, index in theirs.items():
        if ours.get(word) != index:
            given = f"gives it {ours[word]}" if word in ours else "does not know it"
            raise RecipeError(
                f"{names[1]} has another tokenizer ({len(theirs)} words, {names[0]} {len(ours)}): its word {word!r} has"
                f" id {index}, {names[0]} {given}. Choose a reference with the same tokenizer."
            )


def _prompt_ids(options: argparse.Namespace, tokenizer: Any) -> "Tensor":
    """Ids of the prompt: through the chat template where the tokenizer has one, as in training and `dgpo eval`."""
    import torch

    from dgpo.lab.evaluation.sampling import encode_prompt

    if not options.prompt or options.plain:
        return torch.tensor(tokenizer(options.prompt or "")["input_ids"], dtype=torch.long)
    return torch.tensor(encode_prompt(tokenizer, options.prompt), dtype=torch.long)


def _context(model: Any) -> int:
    from dgpo.engines.offline import MAX_TOKENS

    return min(MAX_TOKENS, getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS)


def _sampled(options: argparse.Namespace, policy: Any, prompt_ids: "Tensor") -> "tuple[Tensor, Tensor]":
    """Ids of the prompt and of what the policy says to it."""
    import torch

    room = _context(policy) - len(prompt_ids)
    if room < 1 or not len(prompt_ids):
        raise DataError(f"The prompt has {len(prompt_ids)} tokens and the model reads {_context(policy)}.")
    torch.manual_seed(options.seed)
    prompt = prompt_ids[None].to(policy.device)
    found = policy.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=min(options.max_tokens, room),
        do_sample=True,
        temperature=options.temperature,
        top_k=0,
        top_p=1.0,
    )
    return prompt_ids, found[0, len(prompt_ids) :].cpu()


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
        print(f"Only the first {longest:,} of {len(ids):,} tokens are scored: the model reads no more.")
    if not len(ids[:longest]):
        raise DataError("There is no token to score: the text is too short, or the prompt fills the model's context.")
    return prompt_ids, ids[:longest]
