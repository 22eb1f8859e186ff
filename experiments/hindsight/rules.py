"""What is compared, by name, and with which baseline: GRPO from the same start."""

from dataclasses import replace
from typing import Any

from experiments.hindsight.arms import ANYWHERE, HINTED, INTERRUPTED, Hint, KnowingArm, Tree
from experiments.hindsight.knowing import (
    agreeing,
    decisions,
    distance_weights,
    drift,
    opinion,
    scaled_even,
    value_changes,
)
from experiments.hindsight.starts import Start

HINTS = "grpo hinted"
STUBS, LIKELIHOOD = "grpo interrupted", "gold likelihood logarithm"
UNTOLD = (
    "gold likelihood over stretches",
    "gold likelihood anywhere",
    "gold likelihood anywhere by h",
    "gold likelihood anywhere, no logarithm",
)
"""The same without knowing which tokens are picks: at every token before one, and by a cut after every token."""
SPREAD = "exact advantage over stretches"
GOLD_ARM, PEER_ARM = "hindsight gold", "hindsight peer"
UNTRUE, WRONG, WITHOUT_D = "no hint is true", "gold 1 in 4 wrong", "gold without d"
GOLD, PEER = Hint(), Hint("peer")
AGAINST, AGAINST_WRONG, WRONG_AGAINST = "gold against other", "gold against wrong", "gold 1 in 4 wrong, against other"
DEAF, BARE = "gold trust .5", "gold trust .5 without floor"
TRUSTS = {"1": 1.0, ".7": 0.7, ".5": 0.5}
RATES = {"1/2": 0.5, "2": 2.0}


def _told(rule: Any, options: dict[str, Any], **more: Any) -> KnowingArm:
    return KnowingArm(rule, options, is_told=True, group="ladder", **more)


def _hinted(
    rule: Any = "hindsight", options: dict[str, Any] | None = None, hint: Hint = GOLD, **more: Any
) -> KnowingArm:
    given: dict[str, Any] = {"start": HINTED, "baseline": HINTS, "group": "hindsight"} | more
    uses_all = {"min_agreement": 0.0} if rule == "hindsight" else {}
    return KnowingArm(rule, uses_all | (options or {}), hint=hint, **given)


_EXACT = {"mix": 0.5, "decay": 0.9}
ARMS: dict[str, KnowingArm] = {
    # The ladder: what a rule would have to know.
    "grpo": KnowingArm("even"),
    "grpo scaled": KnowingArm(scaled_even, group="ladder"),
    "which tokens decide": _told(decisions, {"mix": 0.5, "signed": False}),
    "right or wrong": _told(decisions, {"mix": 0.5, "signed": True}),
    "exact advantage alone": _told(value_changes, {"mix": 1.0}, values="exact"),
    "exact advantage": _told(value_changes, {"mix": 0.5}, values="exact"),
    SPREAD: _told(value_changes, {"mix": 0.5, "spread": True}, values="exact"),
    "exact values decay .9": _told(value_changes, _EXACT, values="exact"),
    "values noise .5": _told(value_changes, _EXACT, values="exact", sigma=0.5),
    "values noise 1": _told(value_changes, _EXACT, values="exact", sigma=1.0),
    "values noise 2": _told(value_changes, _EXACT, values="exact", sigma=2.0),
    # Estimates that need no hint.
    **{
        f"tree at {at}": KnowingArm("even", tree=Tree(at), group="ladder")
        for at in ("random", "h", "d", "d*h", "decisions")
    },
    STUBS: KnowingArm("even", start=INTERRUPTED, baseline=STUBS),
    "gold likelihood decay .9": _told(
        value_changes, _EXACT, values="gold likelihood", start=INTERRUPTED, baseline=STUBS
    ),
    LIKELIHOOD: _told(
        value_changes,
        {"mix": 0.5, "logarithm": True},
        values="gold likelihood",
        start=INTERRUPTED,
        baseline=STUBS,
    ),
    UNTOLD[0]: _told(
        value_changes,
        {"mix": 0.5, "logarithm": True, "spread": True},
        values="gold likelihood",
        start=INTERRUPTED,
        baseline=STUBS,
    ),
    f"{STUBS} anywhere": KnowingArm("even", start=ANYWHERE, baseline=f"{STUBS} anywhere"),
    **{
        name: _told(
            value_changes,
            {"mix": 0.5, "logarithm": logarithm, "by_entropy": by_entropy},
            values="gold likelihood",
            start=ANYWHERE,
            baseline=f"{STUBS} anywhere",
        )
        for name, logarithm, by_entropy in zip(UNTOLD[1:], (True, True, False), (False, True, False), strict=True)
    },
    "drift bound .5": KnowingArm(drift, {"mix": 0.1, "bound": 0.5}, group="ladder"),
    "drift bound 2": KnowingArm(drift, {"mix": 0.1, "bound": 2.0}, group="ladder"),
    # Hindsight by a frozen reference that is shown a hint.
    HINTS: KnowingArm("even", start=HINTED, baseline=HINTS),
    GOLD_ARM: _hinted(),
    PEER_ARM: _hinted(hint=PEER),
    **{f"gold mix {name}": _hinted(options={"mix": mix}) for name, mix in ((".1", 0.1), (".5", 0.5), (".7", 0.7))},
    **{f"peer mix {name}": _hinted(options={"mix": mix}, hint=PEER) for name, mix in ((".1", 0.1), (".5", 0.5))},
    # Other starts: hints that the reference was taught to trust more or less.
    **{
        f"{HINTS} {name}": KnowingArm("even", start=Start("hinted", trust), baseline=f"{HINTS} {name}")
        for name, trust in TRUSTS.items()
    },
    **{
        f"gold trust {name}": _hinted(start=Start("hinted", trust), baseline=f"{HINTS} {name}")
        for name, trust in TRUSTS.items()
    },
    BARE: _hinted(opinion, start=Start("hinted", 0.5), baseline=f"{HINTS} .5"),
    # Hints that are wrong.
    **{
        f"gold {name} wrong": _hinted(hint=Hint(wrong=share))
        for name, share in (("1 in 10", 0.1), ("1 in 4", 0.25), ("1 in 2", 0.5))
    },
    UNTRUE: _hinted(hint=Hint(random=True)),
    # What the hinted reference is compared with: not the plain prompt, but another hint.
    AGAINST_WRONG: _hinted(hint=Hint(control="wrong")),
    AGAINST: _hinted(hint=Hint(control="other")),
    WRONG_AGAINST: _hinted(hint=Hint(wrong=0.25, control="other")),
    # Whose opinion: a policy that is copied every so many rollouts in place of the frozen reference.
    **{f"gold refreshed {n}": _hinted(hint=Hint(refresh_every=n)) for n in (1, 10, 40)},
    "peer refreshed 1": _hinted(hint=Hint("peer", refresh_every=1)),
    # What is made of i and d.
    **{f"gold clip {name}": _hinted(options={"clip": clip}) for name, clip in ((".5", 0.5), ("8", 8.0))},
    **{f"gold floor {name}": _hinted(options={"floor": floor}) for name, floor in ((".005", 0.005), (".1", 0.1))},
    WITHOUT_D: _hinted(opinion, {"gate": "none"}),
    "gold scaled over the batch": _hinted(opinion, {"by": "batch"}),
    "gold scaled over the group": _hinted(opinion, {"by": "group"}),
    "peer scaled over the batch": _hinted(opinion, {"by": "batch"}, hint=PEER),
    "peer scaled over the group": _hinted(opinion, {"by": "group"}, hint=PEER),
    "gold d as weights": _hinted(distance_weights, {"tau": 0.1}),
    "peer d where i agrees": _hinted(agreeing, hint=PEER),
    # Learning rates, chosen on other seeds.
    **{
        f"{HINTS} rate {name}": KnowingArm("even", start=HINTED, baseline=HINTS, rate=rate)
        for name, rate in RATES.items()
    },
    **{f"{GOLD_ARM} rate {name}": _hinted(rate=rate) for name, rate in RATES.items()},
}
_WITH_A_CHECK = (
    *(GOLD_ARM, WRONG, UNTRUE, "gold 1 in 10 wrong", "gold 1 in 2 wrong"),
    *(PEER_ARM, AGAINST, WRONG_AGAINST, DEAF),
)
CHECKED = {f"{name}, checked": name for name in _WITH_A_CHECK}
"""The arms that leave out hints which the rewards contradict, as the library does, and those that use every hint."""
ARMS |= {name: replace(ARMS[plain], options={}, group="checked") for name, plain in CHECKED.items()}
LADDER = tuple(name for name, arm in ARMS.items() if arm.group == "ladder")
RATED = tuple(name for name in ARMS if " rate " in name)
