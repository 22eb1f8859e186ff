"""The public operation on LM heads."""

from dgpo.lm_head.arguments import autocast_dtype, check_heads, check_targets, check_transform
from dgpo.lm_head.dispatch import choose_tile_ops
from dgpo.lm_head.reference import reference_stats
from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tiling import projection_dtype
from dgpo.lm_head.types import LMHeadStats, VocabParallel
from dgpo.tensor_types import Float, Int, Tensor


def lm_head_stats(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " N"],
    *,
    ref_hidden: Float[Tensor, "N G"] | None = None,
    ref_weight: Float[Tensor, "V G"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    ref_bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    impl: str = "auto",
    vocab_parallel: VocabParallel | None = None,
) -> LMHeadStats:
    """Return log-probability, entropy and squared Hellinger distance per token from hidden states.

    With logits z = x * logit_scale, z = softcap * tanh(z / softcap) if there is a softcap, z = z / temperature, for
    x = hidden @ weight.T + bias and likewise for the reference, p = softmax(z), q = softmax(z_ref):

        logps = log p_t                           entropy = - sum_v p_v log p_v
        hellinger_sq = 1 - sum_v sqrt(p_v q_v)    ref_logps = log q_t

    (d of arXiv:2605.03327, and its h before the division by log V.) Under `torch.autocast` the projections run in its
    dtype, otherwise in the dtype of `hidden`; everything after them is float32, or float64 where `hidden` is. On a
    processor that has no instructions for bfloat16 (float16) products they run in float32, which is faster and rounds
    less.

    Args:
        hidden: Final hidden states of the policy, (N, H), any float dtype.
        weight: The policy's head, (V, H); cast tile by tile to the dtype of the projection.
        targets: Token ids, (N,) int64 in [0, V). Checked on the CPU; on an accelerator, where the check would wait for
            the device, the streamed implementation gives an id outside a nan log-probability.
        ref_hidden: Final hidden states of the reference, (N, G), or None for the policy's statistics alone.
        ref_weight: The reference's head, (V, G). None with `ref_hidden` given: the reference shares the policy's
            weight and bias, as it does under LoRA or with a frozen head.
        bias: The policy's head bias, (V,); -inf rules a token out.
        ref_bias: The reference's head bias, (V,); only together with `ref_weight`.
        temperature: Sampling temperature, > 0; applies to both heads.
        logit_scale: Factor of the projections, > 0 (Cohere, Granite).
        softcap: Final logit softcapping, > 0 (Gemma); None for none.
        impl: "streamed" holds tiles of the logits, "triton" works on the same tiles by fused kernels (CUDA);
            "reference" holds all of the logits and is the oracle of the tests. "auto" is "triton" where it runs, else
            "streamed", and "reference" where the projection runs in float64.
        vocab_parallel: How the vocabulary is split over the ranks of a process group (tensor parallelism); None for a
            whole head. Weights and biases are then this rank's consecutive rows, in the order of the ranks; shards may
            differ in size and be empty. Everything else is the same on every rank: hidden states, targets (ids of the
            whole vocabulary) and options. Forward, 8 numbers a token are all-gathered; backward, the gradient of
            `hidden` is all-reduced in fp32. Every rank must compute the same loss and call backward. A split head is
            always streamed, in float64 too.

    Returns:
        Four tensors of (N,): a gradient flows from logps and entropy to hidden, weight and bias, and none from
        hellinger_sq and ref_logps, which are None without `ref_hidden`. Of a split head: the statistics of the whole
        vocabulary, equal on every rank to the last bit, with gradients of this rank's rows.

    Raises:
        ValueError: If shapes, dtypes, devices or options do not fit, or impl="triton" cannot run here; the message
            names the value and the remedy. With `vocab_parallel`, on every rank if the arguments of one do not fit, or
            numbers of tokens, targets, dtypes or options differ between ranks. Where checking its arguments raises
            another error on a rank (None in place of a tensor), that rank raises it, and the others a ValueError.

    Example:
        >>> import torch
        >>> head = torch.tensor([[0.98], [0.02]]).log()           # one hidden unit, two tokens
        >>> stats = lm_head_stats(
        ...     torch.tensor([[1.0]]), head, torch.tensor([0]), ref_hidden=torch.tensor([[0.0]])
        ... )
        >>> round(stats.logps.item(), 4), round(stats.ref_logps.item(), 4)    # log .98, log .5
        (-0.0202, -0.6931)
        >>> round(stats.hellinger_sq.item(), 4)    # 1 - (sqrt(.98 * .5) + sqrt(.02 * .5)) = 1 - (.7 + .1)
        0.2
    """
    policy_tensors, ref_tensors = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    if vocab_parallel is not None:
        from dgpo.lm_head.vocab_parallel import vocab_parallel_stats

        settings = (temperature, logit_scale, softcap)
        return vocab_parallel_stats(policy_tensors, ref_tensors, targets, settings, impl, vocab_parallel)
    policy, ref = check_heads(policy_tensors, ref_tensors)
    check_targets(targets, policy)
    transform = check_transform(temperature, logit_scale, softcap)
    compute_dtype = autocast_dtype(hidden)
    tile_ops = choose_tile_ops(impl, compute_dtype, hidden.device)
    if tile_ops is None:
        return reference_stats(policy, ref, targets, transform, compute_dtype)
    compute_dtype = projection_dtype(compute_dtype, hidden.device)
    return streamed_stats(policy, ref, targets, transform, compute_dtype, tile_ops=tile_ops)
