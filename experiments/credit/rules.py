"""What is compared, by name: a rule of `dgpo.rules`, or a function of this folder, with its options.

To try a rule of your own, add a line with its import path or its function.
"""

from torch import Tensor

from dgpo import TokenStats, credit_rule, gated_scores, redistribution_weights
from experiments.credit.oracles import CreditArm as Arm
from experiments.credit.oracles import oracle, signed_oracle, signed_within_groups


@credit_rule(reads=("kl",))
def kl_scores(stats: TokenStats, *, tau: float) -> Tensor:
    """Return the paper's weights with KL(policy || reference) in place of the Hellinger distance."""
    assert stats.kl is not None
    scores = gated_scores(stats.kl, stats.entropy, vocab_size=stats.vocab_size)
    return redistribution_weights(scores, stats.completion_mask, tau=tau)


ARMS: dict[str, Arm] = {
    "grpo": Arm("even"),
    "grpo+kl": Arm("even", beta=0.04),
    "oracle": Arm(oracle, {"mix": 1.0}, ceiling=True),
    "oracle mixed .5": Arm(oracle, {"mix": 0.5}, ceiling=True),
    "oracle mixed .2": Arm(oracle, {"mix": 0.2}, ceiling=True),
    "signed oracle": Arm(signed_oracle, {"mix": 1.0}, ceiling=True),
    "signed oracle mixed .5": Arm(signed_oracle, {"mix": 0.5}, ceiling=True),
    "signed oracle mixed .2": Arm(signed_oracle, {"mix": 0.2}, ceiling=True),
    "signed in groups mixed .2": Arm(signed_within_groups, {"mix": 0.2}, ceiling=True),
    "signed in groups mixed .5": Arm(signed_within_groups, {"mix": 0.5}, ceiling=True),
    "dgpo tau=1": Arm("dgpo", {"tau": 1.0}),
    "dgpo tau=.5": Arm("dgpo", {"tau": 0.5}),
    "dgpo tau=.1": Arm("dgpo", {"tau": 0.1}),
    "dgpo tau=.05": Arm("dgpo", {"tau": 0.05}),
    "dgpo tau=.1 kappa=.5": Arm("dgpo", {"tau": 0.1, "kappa": 0.5}),
    "dgpo tau=.1 kappa=2": Arm("dgpo", {"tau": 0.1, "kappa": 2.0}),
    # Without the gate the deviation alone decides.
    "deviation only tau=.5": Arm("dgpo", {"tau": 0.5, "kappa": 0.0}),
    "deviation only tau=.1": Arm("dgpo", {"tau": 0.1, "kappa": 0.0}),
    "entropy only tau=.5": Arm("entropy", {"tau": 0.5}),
    "entropy only tau=.1": Arm("entropy", {"tau": 0.1}),
    "kl scores tau=.5": Arm(kl_scores, {"tau": 0.5}),
    "kl scores tau=.1": Arm(kl_scores, {"tau": 0.1}),
    "inverse tau=.1": Arm("inverse", {"tau": 0.1}),
    "inverse tau=.05": Arm("inverse", {"tau": 0.05}),
    "positive only tau=.1": Arm("one_sided", {"tau": 0.1, "sign": "positive"}),
    "negative only tau=.1": Arm("one_sided", {"tau": 0.1, "sign": "negative"}),
    "capped 2 tau=.05": Arm("capped", {"tau": 0.05, "cap": 2.0}),
    "floored .7 tau=.05": Arm("floored", {"tau": 0.05, "floor": 0.7}),
    "refreshed 20 tau=.1": Arm("dgpo", {"tau": 0.1}, refresh_every=20),
    # d * h is smaller than d, so that at one tau the gated weights are merely the more even ones: what the gate does
    # shows at equal shares, with kappa = 0 beside kappa = 1.
    "share 97 %": Arm("effective_share", {"share": 0.97}),
    "share 80 %": Arm("effective_share", {"share": 0.8}),
    "share 50 %": Arm("effective_share", {"share": 0.5}),
    "ungated share 97 %": Arm("effective_share", {"share": 0.97, "kappa": 0.0}),
    "ungated share 80 %": Arm("effective_share", {"share": 0.8, "kappa": 0.0}),
    "ungated share 50 %": Arm("effective_share", {"share": 0.5, "kappa": 0.0}),
    "top 20 % entropy": Arm("top_entropy", {"fraction": 0.2}),
    "gtpo": Arm("gtpo"),
    "fipo": Arm("fipo"),
}
