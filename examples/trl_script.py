"""A TRL script: `DGPOTrainer` in place of `GRPOTrainer`, with a credit rule of one's own.

    python examples/trl_script.py       # about a minute on one core, after a warm-up of half a minute

A model of 100 thousand parameters learns to pick the larger digit of each pair in its prompt. Any other causal language
model, data set and reward function of TRL goes in the same places.
"""

from pathlib import Path

from dgpo import DGPOConfig, DGPOTrainer
from dgpo.lab.tasks.forks import load_forks, warm_up_model

RULE = f"{Path(__file__).with_name('custom_rule.py')}:surprising"


def train(output_dir: str = "runs/trl-script", **changes) -> list[float]:
    """Train, and return the mean reward of each step."""
    task = load_forks(num_forks=2)
    settings = {
        "credit_rule": RULE,  # "dgpo" is the paper's, "even" is GRPO
        "credit_options": {"strength": 0.3},
        "max_steps": 60,
        "learning_rate": 5e-4,
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "max_completion_length": 16,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    trainer = DGPOTrainer(
        model=str(warm_up_model(num_forks=2)),
        reward_funcs=list(task.reward_funcs),
        args=DGPOConfig(output_dir=output_dir, **(settings | changes)),
        train_dataset=task.train_dataset,
    )
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


if __name__ == "__main__":
    rewards = train()
    first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
    print(f"mean reward: {first:.2f} in the first five steps, {last:.2f} in the last five")
