"""A reward function of your own: TRL's kind, beside the task's, in a script with `DGPOTrainer`.

    python examples/custom_reward.py    # about a minute on one core, after a warm-up of half a minute

TRL calls it with the prompts, the completions and every other column of the data set. It returns one number a
completion, or None where it has no opinion.
"""

from dgpo import DGPOConfig, DGPOTrainer
from dgpo.lab.tasks.forks import forks_reward, load_forks, warm_up_model


def share_right(completions: list[str], answer: list[str], **columns) -> list[float | None]:
    """Return the share of the picks that are right, None for a completion without a result."""
    rewards: list[float | None] = []
    for completion, right in zip(completions, answer, strict=True):
        _, equals, picks = completion.rpartition("=")
        pairs = list(zip(picks.split(), right.split(), strict=False))
        rewards.append(sum(pick == wanted for pick, wanted in pairs) / len(right.split()) if equals else None)
    return rewards


def train(output_dir: str = "runs/custom-reward", **changes) -> list[float]:
    """Train on both rewards, and return the mean share of right picks of each step."""
    settings = {
        "reward_weights": [1.0, 0.5],
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
        reward_funcs=[forks_reward, share_right],
        args=DGPOConfig(output_dir=output_dir, **(settings | changes)),
        train_dataset=load_forks(num_forks=2).train_dataset,
    )
    trainer.train()
    name = "rewards/share_right/mean"
    return [entry[name] for entry in trainer.state.log_history if name in entry]


if __name__ == "__main__":
    shares = train()
    first, last = (sum(part) / len(part) for part in (shares[:5], shares[-5:]))
    print(f"picks that are right: {first:.0%} in the first five steps, {last:.0%} in the last five")
