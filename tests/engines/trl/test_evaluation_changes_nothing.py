"""An evaluation changes no bit of the training, and draws the same whenever it is made."""

import random

import numpy as np
import torch
from support import make_checkpoint, make_dataset, make_trainer, parameters, spread_reward
from transformers import TrainerCallback

from dgpo import DGPOTrainer


def noisy_reward(completion_ids, **columns):
    """Draws from Python, NumPy and torch, as a reward function may."""
    noise = random.random() + np.random.rand() + torch.rand(()).item()
    return [
        value + noise * (ids[0] % 2) for value, ids in zip(spread_reward(completion_ids), completion_ids, strict=True)
    ]


class EvaluateOften(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step % 2 == 1


def trained(path, folder, *, before=False, **options):
    """Sampling, dropout and Adam: a random number drawn would show."""
    trainer = make_trainer(
        DGPOTrainer, path, folder, reward=noisy_reward, optim="adamw_torch", learning_rate=3e-3, max_steps=4, **options
    )
    trainer.eval_dataset = make_dataset(6)
    figures = [trainer.evaluate() for _ in range(2 * before)]
    trainer.train()
    return parameters(trainer), figures, trainer


def told(metrics):
    return {name: value for name, value in metrics.items() if "time" not in name and "per_second" not in name}


def test_no_bit_of_the_training_changes(tmp_path):
    path = make_checkpoint(tmp_path / "model", attention_dropout=0.1)
    without, _, _ = trained(path, tmp_path / "without")
    with_some, figures, trainer = trained(path, tmp_path / "with", before=True, callbacks=(EvaluateOften(),))
    assert torch.equal(without, with_some)
    assert told(figures[0]) == told(figures[1])
    assert figures[0]["eval_reward"] != 0
    # After training, whatever was drawn since: a resumed run measures what one that was not stopped does.
    last = trainer.evaluate()
    torch.rand(5)
    assert told(trainer.evaluate()) == told(last)
    assert last["eval_reward"] != figures[0]["eval_reward"]
