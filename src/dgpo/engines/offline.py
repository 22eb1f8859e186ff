"""The credit that a rule gives the tokens of a text, for any pair of models with one vocabulary."""

from typing import Any

import torch
from torch import Tensor

from dgpo.core import HINDSIGHT_STATS, TokenStats, assign_credit
from dgpo.credit_log.collect import NUM_ALTERNATIVES, TOKEN_ADVANTAGES, alternatives_at, collect_completion
from dgpo.credit_log.record import CompletionCredit
from dgpo.errors import ConfigError
from dgpo.lm_head import lm_head_stats, top_tokens
from dgpo.lm_head.types import LogitTransform
from dgpo.rules import CreditRule

MAX_TOKENS = 100_000
_CHUNK = 2048  # tokens whose statistics are taken at once
_PLACES = 2000  # of the largest scores, which get their alternatives
_CHECKED = 8  # first tokens whose logits are compared with the model's own


def check_offline_rule(rule: CreditRule, *, has_hint: bool = False) -> None:
    """Raise if a rule needs more than one completion and two models can give.

    Args:
        rule: What `dgpo.rules.resolve` gave.
        has_hint: Whether there is a hint for the reference.

    Raises:
        ConfigError: If it compares the completions of a prompt, reads KL(policy || reference), or reads a hint where
            there is none. A hint that the rule does not read is refused as well.

    Example:
        >>> from dgpo.rules import resolve
        >>> check_offline_rule(resolve("gtpo"))
        Traceback (most recent call last):
        dgpo.errors.ConfigError: The credit rule gtpo(bonus=0.5) compares the completions of a prompt, and here ...
    """
    if rule.traits.whole_groups:
        raise ConfigError(
            f"The credit rule {rule} compares the completions of a prompt, and here is a single one. Log the credit of"
            " a training run with it (credit_log_steps) and look at `dgpo report`."
        )
    if rule.traits.needs_hint and not has_hint:
        raise ConfigError(
            f"The credit rule {rule} reads what the reference thinks once it is shown a hint, and there is none. Give"
            " one: --hint 'the right answer'."
        )
    if has_hint and not rule.traits.needs_hint:
        raise ConfigError(f"The credit rule {rule} reads no hint. Use --rule hindsight, or leave --hint out.")
    if "kl" in rule.traits.reads:
        raise ConfigError(
            f"The credit rule {rule} reads kl, which is not computed for a text. Log the credit of a training run with"
            " it (credit_log_steps) and look at `dgpo report`."
        )


def score_text(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    prompt_ids: Tensor,
    ids: Tensor,
    *,
    rule: CreditRule,
    temperature: float = 1.0,
    hint: str | None = None,
    control: str | None = None,
    hinted_ids: Tensor | None = None,
    control_ids: Tensor | None = None,
) -> CompletionCredit:
    """Return the credit that a rule gives the tokens of a text, as the only completion of its prompt.

    Its advantage is 1, so that a signed rule gives A w of such a completion; the policy is also the one that sampled.

    Args:
        policy: A causal language model.
        reference: Another one with the same vocabulary.
        tokenizer: Their tokenizer.
        prompt_ids: (P,) int64, at least one.
        ids: (T,) int64, the tokens to score.
        rule: What `dgpo.rules.resolve` gave.
        temperature: Of the sampling; both distributions are taken at it.
        hint: What the reference is shown, for a rule that reads it.
        control: What that is compared with; None: the plain prompt.
        hinted_ids: (Q,) int64, the prompt with the hint.
        control_ids: (C,) int64, what that is compared with: the prompt with another hint; None: the prompt.

    Returns:
        The completion, without an advantage or a reward. It has d and s even where the rule reads no reference.

    Raises:
        ConfigError: If the rule needs more than this, or a model computes its logits in a way that is not supported, or
            that differs between the two.
    """
    check_offline_rule(rule, has_hint=hinted_ids is not None)
    heads = _heads(policy, reference, prompt_ids, prompt_ids, ids)
    vocab_size = len(heads[0].weight)
    transform = heads[0].transform | {"temperature": temperature}
    per_token = _per_token(heads, ids, transform)
    if hinted_ids is not None:
        other = prompt_ids if control_ids is None else control_ids
        told = pair_stats(reference, reference, hinted_ids, ids, ref_prompt_ids=other, temperature=temperature)
        values = (told["hellinger_sq"], told["logps"] - told["ref_logps"])
        per_token |= dict(zip(HINDSIGHT_STATS, values, strict=True))
    stats = TokenStats(
        completion_mask=torch.ones(1, len(ids), dtype=torch.bool),
        advantages=torch.ones(1),
        vocab_size=vocab_size,
        group=torch.zeros(1, dtype=torch.long),
        old_logps=per_token["logps"][None],
        hint_agreement=None if hinted_ids is None else torch.full((1,), torch.nan),  # no other completion, no pair
        **{name: values[None] for name, values in per_token.items()},
    )
    credit = assign_credit(stats, rule)
    assert credit.scores is not None
    scores = credit.scores[0]
    places = scores.topk(min(_PLACES, len(ids))).indices
    tops = {
        who: top_tokens(
            head.hidden[places.to(head.hidden.device)], head.weight, NUM_ALTERNATIVES, bias=head.bias, **transform
        )
        for who, head in zip(("policy", "reference"), heads, strict=True)
    }
    given = {TOKEN_ADVANTAGES: credit.token_advantages} if credit.weights is None else {"weights": credit.weights}
    return collect_completion(
        tokenizer,
        ids,
        {**per_token, "scores": scores, **{name: values[0] for name, values in {**credit.columns, **given}.items()}},
        vocab_size=vocab_size,
        prompt_ids=prompt_ids.tolist(),
        hint=hint,
        control=control,
        alternatives=alternatives_at(places.tolist(), tops),
        max_tokens=MAX_TOKENS,
    )


def pair_stats(
    policy: Any, reference: Any, prompt_ids: Tensor, ids: Tensor, *, ref_prompt_ids: Tensor, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Return what two models think of a text, each after a prompt of its own.

    With one model in both places and a hint in one prompt these are the statistics of hindsight: d, and i as
    `logps - ref_logps`.

    Args:
        policy: A causal language model.
        reference: Another one with the same vocabulary, or the same one.
        prompt_ids: (P,) int64, what the policy reads before the text.
        ids: (T,) int64, the tokens to score, at least one.
        ref_prompt_ids: (Q,) int64, what the reference reads before the text.
        temperature: Both distributions are taken at it.

    Returns:
        `logps`, `entropy`, `hellinger_sq`, `ref_logps`, (T,) float32 each, without gradient, on the CPU.

    Raises:
        ConfigError: As for `score_text`.
    """
    heads = _heads(policy, reference, prompt_ids, ref_prompt_ids, ids)
    return _per_token(heads, ids, heads[0].transform | {"temperature": temperature})


def _heads(policy: Any, reference: Any, prompt_ids: Tensor, ref_prompt_ids: Tensor, ids: Tensor) -> "list[_Head]":
    given = ((policy, prompt_ids), (reference, ref_prompt_ids))
    heads = [_Head(model, torch.cat([before, ids]), len(before)) for model, before in given]
    if heads[0].transform != heads[1].transform:
        raise ConfigError("The two models scale or cap their logits differently; such pairs are not supported.")
    return heads


@torch.no_grad()
def _per_token(heads: "list[_Head]", ids: Tensor, transform: dict[str, Any]) -> dict[str, Tensor]:
    parts = [
        lm_head_stats(
            heads[0].hidden[rows],
            heads[0].weight,
            ids[rows].to(heads[0].hidden.device),
            bias=heads[0].bias,
            ref_hidden=heads[1].hidden[rows],
            ref_weight=heads[1].weight,
            ref_bias=heads[1].bias,
            **transform,
        )
        for rows in (slice(start, start + _CHUNK) for start in range(0, len(ids), _CHUNK))
    ]
    names = ("logps", "entropy", "hellinger_sq", "ref_logps")
    return {name: torch.cat([getattr(part, name) for part in parts]).float().cpu() for name in names}


class _Head:
    """Hidden states of the scored tokens, the head, and how logits are made of them."""

    def __init__(self, model: Any, ids: Tensor, prompt_length: int) -> None:
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
        self._check_logits(model, ids[None, :_CHECKED].to(model.device), states[0, :_CHECKED])

    def _check_logits(self, model: Any, ids: Tensor, states: Tensor) -> None:
        """Raise if the head's product is not the model's own logits: whatever else it does would be missing."""
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits[0].float()
        transform = LogitTransform(self.transform["logit_scale"], self.transform["softcap"], 1.0)
        bias = 0.0 if self.bias is None else self.bias
        computed = transform((states @ self.weight.T + bias).float())
        share = 1e-3 if states.dtype == torch.float32 else 3e-2  # of the largest logit; 16-bit numbers are coarse
        if not bool(torch.isfinite(expected).all()):
            raise ConfigError(f"The logits of {model.config._name_or_path} are not finite; its weights may be damaged.")
        if (computed - expected).abs().max() > share * expected.abs().max().clamp(min=1.0):
            raise ConfigError(
                f"{type(model).__name__} computes its logits in a way that is not supported; its credit would be wrong."
            )
