"""The points of the surface: one setting at a time is moved away from the task as it is."""

from dataclasses import dataclass, replace

from torch import Tensor

from dgpo import TokenStats, credit_rule, gated_scores, redistribution_weights
from experiments.credit.layout import VOCAB_SIZE, Layout
from experiments.credit.oracles import CreditArm
from experiments.credit.variants import REDUCED, VARIANTS, Variant, WarmUp

BASE = "four forks"
GRPO = "grpo"
TAUS = {"dgpo tau=.5": 0.5, "dgpo tau=.1": 0.1}
"""The paper's temperature, and one at which its weights differ from 1."""
LARGE = 152_064
"""Rows of Qwen2.5-32B's head."""


@credit_rule(reads=("hellinger_sq",))
def dgpo_of_vocabulary(stats: TokenStats, *, tau: float, vocab_size: int) -> Tensor:
    """Return DGPO's weights as if there were more words, none of which is ever likely: the gate divides by log V."""
    assert stats.hellinger_sq is not None
    scores = gated_scores(stats.hellinger_sq, stats.entropy, vocab_size=vocab_size)
    return redistribution_weights(scores, stats.completion_mask, tau=tau)


@dataclass(frozen=True)
class Point:
    """One point of the surface.

    Attributes:
        axis: What is moved.
        value: Where to, as tables show it.
        variant: Name of the setting that it is trained in.
        suffix: Of the arms' names, where it is the rule that is moved.
    """

    axis: str
    value: str
    variant: str = BASE
    suffix: str = ""

    def arm(self, method: str) -> str:
        """Return the name of the arm of a method; GRPO has no reference and no gate."""
        return method if method == GRPO else method + self.suffix


_four = VARIANTS[BASE]
_RATES = {f"rate x {name}": factor for name, factor in (("1/4", 0.25), ("1/2", 0.5), ("2", 2.0), ("4", 4.0))}
_GROUPS = {f"groups of {size}": size for size in (4, 16, 32)}
_UPDATES = {f"{count} updates": count for count in (1, 2, 4, 8, 16)}
_CLIP = 0.28
"""DAPO's upper clip width."""
_LENGTHS = {f"{Layout(4, fillers).length} tokens": fillers for fillers in (4, 12)}
_LONG = WarmUp(Layout(4, 44), steps=1000)
"""After the 250 updates of the others a model of so long completions does not know where they end."""
SETTINGS: dict[str, Variant] = {
    BASE: _four,
    **{name: replace(_four, learning_rate=factor * _four.learning_rate) for name, factor in _RATES.items()},
    # As many completions a rollout.
    **{name: replace(_four, num_generations=size, num_prompts=32 // size) for name, size in _GROUPS.items()},
    **{name: replace(_four, num_updates=count, num_rollouts=40) for name, count in _UPDATES.items()},
    **{
        f"{name}, clip {_CLIP}": replace(_four, num_updates=count, num_rollouts=40, clip_high=_CLIP)
        for name, count in _UPDATES.items()
        if count > 1  # the first update is on policy, where nothing is clipped
    },
    **{name: replace(_four, warm_up=WarmUp(Layout(4, fillers))) for name, fillers in _LENGTHS.items()},
    f"{_LONG.layout.length} tokens, warm-up {_LONG.steps}": replace(_four, warm_up=_LONG),
    "reduced": REDUCED,
}
_WORDS = {f" V={size:,}": size for size in (1_000, LARGE)}
_WARM_UPS = {f" reference {steps}": steps for steps in (120, 60, 30)}
_AGES = {f" refreshed {count}": count for count in (40, 10, 1)}
POINTS = (
    *(Point("learning rate", name.removeprefix("rate "), name) for name in list(_RATES)[:2]),
    Point("learning rate", "x 1"),
    *(Point("learning rate", name.removeprefix("rate "), name) for name in list(_RATES)[2:]),
    Point("completions per prompt", "4", "groups of 4"),
    Point("completions per prompt", str(_four.num_generations)),
    *(Point("completions per prompt", name.removeprefix("groups of "), name) for name in list(_GROUPS)[1:]),
    *(Point("updates per rollout", name.removesuffix(" updates"), name) for name in _UPDATES),
    *(
        Point(f"updates per rollout, clip {_CLIP}", str(count), f"{name}, clip {_CLIP}")
        for name, count in _UPDATES.items()
        if count > 1
    ),
    Point("tokens per completion", str(_four.warm_up.layout.length)),
    *(Point("tokens per completion", name.removesuffix(" tokens"), name) for name in _LENGTHS),
    Point("tokens per completion", str(_LONG.layout.length), f"{_LONG.layout.length} tokens, warm-up {_LONG.steps}"),
    Point("words of the vocabulary", str(VOCAB_SIZE)),
    *(Point("words of the vocabulary", suffix.removeprefix(" V="), suffix=suffix) for suffix in _WORDS),
    Point("rollouts before the reference is renewed", "never"),
    *(Point("rollouts before the reference is renewed", str(count), suffix=name) for name, count in _AGES.items()),
    Point("warm-up of the reference, updates", str(_four.warm_up.steps)),
    *(Point("warm-up of the reference, updates", str(steps), suffix=name) for name, steps in _WARM_UPS.items()),
)
ARMS: dict[str, CreditArm] = {
    GRPO: CreditArm("even"),
    **{name: CreditArm("dgpo", {"tau": tau}) for name, tau in TAUS.items()},
    **{
        name + suffix: CreditArm(dgpo_of_vocabulary, {"tau": tau, "vocab_size": size})
        for name, tau in TAUS.items()
        for suffix, size in _WORDS.items()
    },
    **{
        name + suffix: CreditArm("dgpo", {"tau": tau}, refresh_every=count)
        for name, tau in TAUS.items()
        for suffix, count in _AGES.items()
    },
    **{
        name + suffix: CreditArm("dgpo", {"tau": tau}, reference_steps=steps)
        for name, tau in TAUS.items()
        for suffix, steps in _WARM_UPS.items()
    },
}
