"""What a credit rule may read of one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # what a rule reads is known without torch, which takes seconds to load
    from torch import Tensor

HINDSIGHT_STATS = ("hindsight_hellinger_sq", "hindsight_log_ratio")
"""Fields of `TokenStats` for which a reference must be scored with a hint, and with another one or none."""
REFERENCE_STATS = ("hellinger_sq", "ref_logps", "kl", *HINDSIGHT_STATS)
"""Fields of `TokenStats` for which a reference must be scored; `None` where none is."""


class TokenStats(NamedTuple):
    """Per-token statistics of a batch of completions. Nothing of it carries a gradient.

    Slots off `completion_mask` may hold anything, nan included: a rule masks before it adds up. Rows may stand in any
    order (TRL shuffles a rollout), so that a rule that compares completions of a prompt goes by `group`.

    Attributes:
        completion_mask: (B, T) bool, True where a token is trained.
        advantages: (B,) float, A, the advantage of each completion.
        entropy: (B, T) float, H of the policy in nats.
        logps: (B, T) float, log-probabilities of the sampled tokens under the policy being updated.
        old_logps: (B, T) float, the same under the policy that sampled; equal to `logps` at the first update.
        vocab_size: V.
        hellinger_sq: (B, T) float, d, squared Hellinger distance of policy and reference, in [0, 1]; or None.
        ref_logps: (B, T) float, log-probabilities under the reference; or None.
        rewards: (B,) float, weighted sum of the rewards, nan where nothing was scored; or None.
        group: (B,) int64, which prompt a completion belongs to; or None.
        kl: (B, T) float, KL(policy || reference) over the vocabulary in nats; None unless an engine computes it.
        hindsight_hellinger_sq: (B, T) float, squared Hellinger distance of the reference that is shown a hint to the
            one that is shown another, or none, in [0, 1], 0 in a completion without a hint; or None.
        hindsight_log_ratio: (B, T) float, log pi_ref(y | x, hint) - log pi_ref(y | x, other) of the sampled tokens in
            nats, where the other is another hint or none; 0 in a completion without a hint; or None.
        hint_agreement: (B,) float, how often the better one of two hinted completions of the prompt is the one that the
            hint makes likelier, in [0, 1], nan where no two differ in reward; None where the rule reads no hints.
    """

    completion_mask: Tensor
    advantages: Tensor
    entropy: Tensor
    logps: Tensor
    old_logps: Tensor
    vocab_size: int
    hellinger_sq: Tensor | None = None
    ref_logps: Tensor | None = None
    rewards: Tensor | None = None
    group: Tensor | None = None
    kl: Tensor | None = None
    hindsight_hellinger_sq: Tensor | None = None
    hindsight_log_ratio: Tensor | None = None
    hint_agreement: Tensor | None = None
