"""What is compared, and on what: every arm is `DGPOTrainer` with another credit rule, so that nothing else differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.arms import Arm

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE = "base"
"""The arm that trains nothing: held-out accuracy before training, shared by all others of the same task and seed."""
GRPO = "grpo"

ARMS: Mapping[str, Arm] = {
    GRPO: Arm("even", label="GRPO"),
    "dgpo": Arm("dgpo", {"tau": 0.5}, label="DGPO, tau = 0.5"),
    "grpo-kl": Arm("even", label="GRPO + 0.04 KL", beta=0.04),
    "entropy": Arm("entropy", {"tau": 0.5}, label="entropy only, tau = 0.5"),
}


@dataclass(frozen=True)
class Questions:
    """What is learnt.

    Attributes:
        dataset: reasoning-gym's data set.
        options: Its options.
        suffix: Follows each question. Prompts are plain text without a chat template: half as many tokens, and a model
            that answers rather than explains from the start.
    """

    dataset: str
    options: Mapping[str, int]
    suffix: str


TASKS: Mapping[str, Questions] = {
    "chain_sum": Questions("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, ""),
    "lcm": Questions("lcm", {"min_value": 2, "max_value": 12}, "\nAnswer:"),
}
"""Sums and differences of two one-digit numbers; least common multiples of two numbers up to 12."""

TRAINING: Mapping[str, Any] = {
    "max_steps": 14,
    "per_device_train_batch_size": 32,
    "num_generations": 4,
    "max_completion_length": 6,
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
    "eval_size": 4,
    "eval_samples": 1,
}
