"""What is compared, and on what: every arm is `DGPOTrainer` with another credit rule, so that nothing else differs.

One is not: TRL's SDPO, which distils the policy, once it is shown the same hint, into itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.arms import Arm
from experiments.smollm2.questions import HINTED, MISLED, MISSOLVED, SOLVED

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE = "base"
"""The arm that trains nothing: held-out accuracy before training, shared by all others of the same task and seed."""
GRPO = "grpo"
SDPO = "sdpo"
HINDSIGHT = "hindsight"
HINTS: Mapping[str, tuple[str, str | None]] = {
    HINDSIGHT: (HINTED, MISLED),
    "hindsight-slow": (HINTED, MISLED),
    "hindsight-plain": (HINTED, None),
    "hindsight-solution": (SOLVED, MISSOLVED),
    "hindsight-checked": (HINTED, MISLED),
}
"""The column of what the reference is shown, and of what that is compared with; None: the plain prompt."""

EVERY: Mapping[str, float] = {"min_agreement": 0.0}
"""Every hint is used, one that the rewards contradict as well."""
ARMS: Mapping[str, Arm] = {
    GRPO: Arm("even", label="GRPO"),
    "dgpo": Arm("dgpo", {"tau": 0.5}, label="DGPO, tau = 0.5"),
    HINDSIGHT: Arm("hindsight", EVERY, label="hindsight, answer against a wrong one"),
    "hindsight-plain": Arm("hindsight", EVERY, label="hindsight, answer against none"),
    "hindsight-solution": Arm("hindsight", EVERY, label="hindsight, solution against a wrong one"),
    SDPO: Arm("even", label="SDPO, shown the answer"),
    "dgpo-sharp": Arm("dgpo", {"tau": 0.1}, label="DGPO, tau = 0.1"),
    "share": Arm("effective_share", {"share": 0.8}, label="effective share 80 %"),
    "entropy": Arm("entropy", {"tau": 0.5}, label="entropy only, tau = 0.5"),
    "grpo-slow": Arm("even", label="GRPO, learning rate x 0.3"),
    "hindsight-slow": Arm("hindsight", EVERY, label="hindsight, answer against a wrong one, learning rate x 0.3"),
    "hindsight-checked": Arm("hindsight", label="hindsight, answer against a wrong one, checked by the rewards"),
}
RATES: Mapping[str, float] = {"grpo-slow": 0.3, "hindsight-slow": 0.3}
"""Factor of the learning rate, where it is not 1."""
AT_RATES: Mapping[str, tuple[str, ...]] = {GRPO: (GRPO, "grpo-slow"), HINDSIGHT: (HINDSIGHT, "hindsight-slow")}
"""The arms that are one method at several learning rates."""
CHOSEN_ON = range(100, 104)
"""Seeds on which a method's learning rate is chosen; nothing else is looked at on them."""
RATED = "lcm"
"""The task on which learning rates are chosen: the one whose trainings are cheap."""


@dataclass(frozen=True)
class Questions:
    """What is learnt. Prompts are plain text without a chat template: a model that answers from the start.

    Attributes:
        dataset: reasoning-gym's data set, or `"sums"`: sums of three numbers with worked examples.
        options: Its options.
        training: How it is trained, beside `TRAINING`.
    """

    dataset: str
    options: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


TASKS: Mapping[str, Questions] = {
    "sums": Questions(
        "sums",
        training={"max_steps": 12, "per_device_train_batch_size": 16, "max_completion_length": 40},
    ),
    "lcm": Questions(
        "lcm",
        {"min_value": 2, "max_value": 12},
        training={"max_steps": 14, "per_device_train_batch_size": 32, "max_completion_length": 6},
    ),
}
"""Sums of three one-digit numbers, solved step by step, and least common multiples of two numbers up to 12, without."""


def arms_of(task: str) -> list[str]:
    """Return the arms of a task, the untrained model first: only sums have worked solutions."""
    left_out = set(RATES) if task != RATED else {rule for rule in HINTS if SOLVED in HINTS[rule]}
    return [BASE, *(rule for rule in ARMS if rule not in left_out)]


TRAINING: Mapping[str, Any] = {
    "num_generations": 4,
    "learning_rate": 1e-3,
    "lora_r": 16,
    "lora_layers": 10,
    "eval_size": 48,
    "eval_samples": 2,
}
"""Chosen for the processor time of many trainings on two cores: adapters on the last 10 of 30 layers alone, say."""

REDUCED: Mapping[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 6,
    "eval_size": 4,
    "eval_samples": 1,
}
