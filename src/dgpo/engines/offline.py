"""The credit that DGPO would give the tokens of a text, for any pair of models over the same words."""

from typing import Any

import torch
from torch import Tensor

from dgpo.core import gated_scores, redistribution_weights
from dgpo.credit_log.collect import NUM_ALTERNATIVES, alternatives_at, collect_completion
from dgpo.credit_log.files import CompletionCredit
from dgpo.errors import RecipeError
from dgpo.lm_head import lm_head_stats, top_tokens
from dgpo.lm_head.types import LogitTransform

MAX_TOKENS = 100_000
_CHUNK = 2048  # tokens whose statistics are taken at once
_PLACES = 2000  # of the largest scores, which get their alternatives
_CHECKED = 8  # first tokens whose logits are compared with the model's own


def score_pair(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    prompt_ids: Tensor,
    ids: Tensor,
    *,
    tau: float = 0.5,
    kappa: float = 1.0,
    temperature: float = 1.0,
) -> CompletionCredit:
    """Return the credit of a text, as DGPO would give it.

    Args:
        policy: A causal language model.
        reference: Another one over the same words.
        tokenizer: Their tokenizer.
        prompt_ids: (P,) int64, at least one.
        ids: (T,) int64, the tokens to score.
        tau: Temperature of the redistribution.
        kappa: Exponent of the entropy gate.
        temperature: Of the sampling; both distributions are taken at it.

    Returns:
        The completion, without an advantage.

    Raises:
        RecipeError: If the way from hidden states to logits is not one that DGPO knows, or differs between the two.
    """
    heads = [_Head(model, torch.cat([prompt_ids, ids]), len(prompt_ids)) for model in (policy, reference)]
    vocab_size = len(heads[0].weight)
    transforms = [head.transform | {"temperature": temperature} for head in heads]
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
        per_token["hellinger_sq"][None], per_token["entropy"][None], vocab_size=vocab_size, kappa=kappa
    )[0]
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    per_token["weights"] = redistribution_weights(per_token["scores"][None], mask, tau=tau)[0]
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
        self._refuse_unknown_way(model, ids[None, :_CHECKED].to(model.device), states[0, :_CHECKED])

    def _refuse_unknown_way(self, model: Any, ids: Tensor, states: Tensor) -> None:
        """Compare with the model's own logits: what the head does besides must not be missed without a word."""
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits[0].float()
        transform = LogitTransform(self.transform["logit_scale"], self.transform["softcap"], 1.0)
        bias = 0.0 if self.bias is None else self.bias
        found = transform((states @ self.weight.T + bias).float())
        share = 1e-3 if states.dtype == torch.float32 else 3e-2  # of the largest logit; 16-bit numbers are coarse
        if not bool(torch.isfinite(expected).all()):
            raise RecipeError(f"The logits of {model.config._name_or_path} are not finite; its weights may be damaged.")
        if (found - expected).abs().max() > share * expected.abs().max().clamp(min=1.0):
            raise RecipeError(
                f"{type(model).__name__} makes its logits in a way that DGPO does not know; its credit would be wrong."
            )
