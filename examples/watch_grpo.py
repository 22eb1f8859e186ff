"""A plain TRL script, and the one line that shows the credit of its tokens.

    python examples/watch_grpo.py       # about a minute on one core, after a warm-up of half a minute
    dgpo report runs/watch-grpo         # the page: whole groups with answers, rewards, advantages, entropies, distances

`dgpo.watch` changes nothing of the training, bit for bit. `GRPOTrainer`, its configuration, the model and the rewards
are TRL's and yours.
"""

from trl import GRPOConfig, GRPOTrainer

import dgpo
from dgpo.lab.tasks.forks import load_forks, warm_up_model


def train(output_dir: str = "runs/watch-grpo", **changes) -> list[float]:
    """Train, and return the mean reward of each step."""
    task, model = load_forks(num_forks=2), str(warm_up_model(num_forks=2))
    settings = {
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
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=list(task.reward_funcs),
        args=GRPOConfig(output_dir=output_dir, **(settings | changes)),
        train_dataset=task.train_dataset,
    )
    dgpo.watch(trainer, every=20, reference=model)  # the checkpoint that it starts from; TRL has none at beta = 0
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


if __name__ == "__main__":
    rewards = train()
    first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
    print(f"mean reward: {first:.2f} in the first five steps, {last:.2f} in the last five")
