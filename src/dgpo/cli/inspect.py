"""`dgpo inspect MODEL --reference REF`: the credit that a text would get, for any pair of models, without training."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dgpo.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENS = 100_000
_CHUNK = 2048  # tokens whose statistics are taken at once
_PLACES = 2000  # of the largest scores, which get their alternatives


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
    from dgpo.cli.noise import quiet_libraries
    from dgpo.cli.report import write_page
    from dgpo.report.credit_log import LoggedStep
    from dgpo.report.page import render_page
    from dgpo.report.runs import Run

    quiet_libraries()
    policy, tokenizer = _load(options.model)
    reference, other_tokenizer = _load(options.reference)
    _refuse_other_words(options, (policy, tokenizer), (reference, other_tokenizer))
    prompt_ids, ids = _tokens(options, tokenizer, policy, text)
    completion = score(policy, reference, tokenizer, prompt_ids, ids, options)
    run = Run(Path(options.model).name, steps=[LoggedStep(0, {}, [completion])])
    facts = {
        "policy": options.model,
        "reference": options.reference,
        "tau": f"{options.tau:g}",
        "kappa": f"{options.kappa:g}",
        "temperature": f"{options.temperature:g}",
    }
    title = f"{Path(options.model).name} against {Path(options.reference).name}"
    write_page(options.output or Path("inspect.html"), render_page([run], kind="inspect", title=title, facts=facts))
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser("dgpo inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--prompt", default=None)
    parser.add_argument("--text", type=Path, default=None)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--tau", type=float, default=0.5)
    parser.add_argument("--kappa", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=None)
    is_option = [word.startswith("--") and "=" not in word for word in words]
    plain = [re.sub(r"(?<=\w)_", "-", word) if known else word for word, known in zip(words, is_option, strict=True)]
    options = parser.parse_args(plain)
    if options.prompt is None and options.text is None:
        raise RecipeError("dgpo inspect needs a text: --text FILE scores a file, --prompt '...' samples an answer.")
    for name, lowest in (("tau", 0.0), ("temperature", 0.0), ("max_tokens", 0)):
        if not getattr(options, name) > lowest:
            raise RecipeError(f"--{name.replace('_', '-')} must be above 0, got {getattr(options, name)}.")
    if options.kappa < 0:
        raise RecipeError(f"--kappa must be at least 0, got {options.kappa}. 0 is no entropy gate.")
    return options


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


def _load(name: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dgpo.models import resolve_model

    path = resolve_model(name)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The model {name} cannot be loaded: {error}") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _refuse_other_words(options: argparse.Namespace, policy: tuple[Any, Any], reference: tuple[Any, Any]) -> None:
    """The same ids must mean the same words, or the distance compares nothing."""
    sizes = [model.get_output_embeddings().weight.shape[0] for model, _ in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise RecipeError(
            f"{options.model} has {sizes[0]} words and {options.reference} has {sizes[1]}; the distance compares"
            " distributions over the same words. Choose a reference with the same vocabulary."
        )
    ours, theirs = policy[1].get_vocab(), reference[1].get_vocab()
    for word, index in theirs.items():
        if ours.get(word) != index:
            raise RecipeError(
                f"{options.reference} has another tokenizer: its word {word!r} has id {index}, {options.model} gives it"
                f" {ours.get(word)}. Choose a reference with the same tokenizer."
            )


def _tokens(options: argparse.Namespace, tokenizer: Any, policy: Any, text: str | None) -> "tuple[Tensor, Tensor]":
    """Ids of the prompt, never empty, and of the text that is scored: the file's, or what the policy samples."""
    import torch

    prompt = tokenizer(options.prompt or "", return_tensors="pt")["input_ids"].long()
    if text is None:
        torch.manual_seed(options.seed)
        if not prompt.shape[1]:
            raise RecipeError("--prompt is empty; without --text there is nothing to sample from.")
        sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0, "top_p": 1.0}
        prompt = prompt.to(policy.device)
        found = policy.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=options.max_tokens, **sampling
        )
        return prompt[0].cpu(), found[0, prompt.shape[1] :].cpu()
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0].long()
    prompt_ids = prompt[0]
    if not len(prompt_ids):
        start = tokenizer.bos_token_id
        # Without a first token, the text's own first one can only be read, not scored.
        prompt_ids, ids = (torch.tensor([start]), ids) if start is not None else (ids[:1], ids[1:])
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS
    longest = min(MAX_TOKENS, context - len(prompt_ids))
    if len(ids) > longest:
        print(f"Only the first {longest:,} of {len(ids):,} tokens are scored: the model reads no more.")
    if not len(ids[:longest]):
        raise DataError("There is no token to score: the text is too short, or the prompt fills the model's context.")
    return prompt_ids, ids[:longest]


def score(
    policy: Any, reference: Any, tokenizer: Any, prompt_ids: "Tensor", ids: "Tensor", options: argparse.Namespace
) -> Any:
    """Return the credit of a text, as DGPO would give it.

    Args:
        policy: A causal language model.
        reference: Another one over the same words.
        tokenizer: Their tokenizer.
        prompt_ids: (P,) int64, at least one.
        ids: (T,) int64, the tokens to score.
        options: `tau`, `kappa`, `temperature`.

    Returns:
        A `CompletionCredit`, without an advantage.
    """
    import torch

    from dgpo.core import gated_scores, redistribution_weights
    from dgpo.lm_head import lm_head_stats, top_tokens
    from dgpo.report.collect import NUM_ALTERNATIVES, alternatives_at, collect_completion

    heads = [_Head(model, torch.cat([prompt_ids, ids]), len(prompt_ids)) for model in (policy, reference)]
    vocab_size = len(heads[0].weight)
    transforms = [head.transform | {"temperature": options.temperature} for head in heads]
    if transforms[0] != transforms[1]:
        raise RecipeError("The two models scale or cap their logits differently; such pairs are not supported.")
    parts = []
    with torch.no_grad():
        for start in range(0, len(ids), _CHUNK):
            rows = slice(start, start + _CHUNK)
            parts.append(
                lm_head_stats(
                    heads[0].hidden[rows],
                    heads[0].weight,
                    ids[rows].to(heads[0].hidden.device),
                    bias=heads[0].bias,
                    ref_hidden=heads[1].hidden[rows],
                    ref_weight=heads[1].weight,
                    ref_bias=heads[1].bias,
                    **transforms[0],
                )
            )
    names = ("logps", "entropy", "hellinger_sq", "ref_logps")
    per_token = {name: torch.cat([getattr(part, name) for part in parts]).float().cpu() for name in names}
    per_token["scores"] = gated_scores(
        per_token["hellinger_sq"][None], per_token["entropy"][None], vocab_size=vocab_size, kappa=options.kappa
    )[0]
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    per_token["weights"] = redistribution_weights(per_token["scores"][None], mask, tau=options.tau)[0]
    places = per_token["scores"].topk(min(_PLACES, len(ids))).indices
    tops = {
        who: top_tokens(
            head.hidden[places.to(head.hidden.device)], head.weight, NUM_ALTERNATIVES, bias=head.bias, **transform
        )
        for who, head, transform in zip(("policy", "reference"), heads, transforms, strict=True)
    }
    return collect_completion(
        tokenizer,
        ids,
        per_token,
        vocab_size=vocab_size,
        prompt_ids=prompt_ids.tolist(),
        alternatives=alternatives_at(places.tolist(), tops),
        max_tokens=MAX_TOKENS,
    )


class _Head:
    """Hidden states of the scored tokens, the head, and the way to its logits."""

    def __init__(self, model: Any, ids: "Tensor", prompt_length: int) -> None:
        import torch

        with torch.no_grad():
            states = model.base_model(input_ids=ids[None].to(model.device), use_cache=False).last_hidden_state
        self.hidden = states[0, prompt_length - 1 : -1]
        head = model.get_output_embeddings()
        self.weight, self.bias = head.weight, getattr(head, "bias", None)
        config = model.config.get_text_config()
        scaling = getattr(config, "logits_scaling", None)
        scale = 1.0 / scaling if scaling else getattr(config, "logit_scale", None) or 1.0
        self.transform: dict[str, Any] = {
            "logit_scale": scale,
            "softcap": getattr(config, "final_logit_softcapping", None),
        }
