"""Rewards of held-out prompts as means over the completions that were scored; TRL gives means of batch means."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from dgpo.engines.trl.reference import undisturbed


class HeldOutRewards:
    """Mixin of `DGPOTrainer`: `eval_reward`, `eval_rewards/*` and how many completions and prompts they stand for.

    TRL averages the means of batches: a last batch that is not full weighs as much as a full one, and on several ranks
    its gaps are filled with completions that were counted before. Here every completion counts once, and one without a
    score counts nowhere. Added to TRL's figures: `eval_rewards/<name>/completions` and `eval_rewards/<name>/prompts`,
    what the mean is over, and `eval_prompts`, all that were asked.

    Every evaluation draws the same random numbers, and training goes on with those it would have drawn without it: what
    differs between two evaluations is the model, and a run takes the same steps with and without them, stopped or not.
    """

    # Of the trainer that this is mixed into.
    args: Any
    accelerator: Any
    model: Any
    num_generations_eval: int
    reward_func_names: list[str]
    reward_weights: Tensor
    _metrics: Any

    _eval_scores: list[Tensor] | None = None
    _eval_completions: int | None = None

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's output; remember how many completions were asked for."""
        dataset = getattr(dataloader, "dataset", None)
        size = len(dataset) if dataset is not None and hasattr(dataset, "__len__") else None
        self._eval_completions = None if size is None else size * self.num_generations_eval
        self._eval_scores = []
        with _seeded(f"evaluation {self.args.seed} {self.args.process_index}", self.accelerator.device):
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """Return the rewards of all ranks, (completions, functions); keep those of an evaluation."""
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._eval_scores is not None and not self.model.training:
            self._eval_scores.append(rewards.detach().double().cpu())
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics, those of the rewards of an evaluation over completions."""
        if not self.model.training and self._eval_scores:
            # In the order of the prompts: what stands behind the last one fills gaps of the last batch.
            scores = torch.cat(self._eval_scores)[: self._eval_completions]
            for name, value in self._held_out_metrics(scores).items():
                self._metrics["eval"][name] = [value]
            self._eval_scores = None
        super().log(logs, start_time)

    def _held_out_metrics(self, scores: Tensor) -> dict[str, float]:
        """Figures of the scores (completions, functions); nan is no score, and TRL logs it as None."""
        weighted = (scores * self.reward_weights.double().cpu()).nansum(dim=1)
        weighted[scores.isnan().all(dim=1)] = torch.nan
        metrics = {"prompts": float(-(-len(scores) // self.num_generations_eval))}
        columns = {"reward": weighted}
        columns |= {f"rewards/{name}": s for name, s in zip(self.reward_func_names, scores.T, strict=True)}
        for name, values in columns.items():
            scored = ~values.isnan()
            mean, std = ("reward", "reward_std") if name == "reward" else (f"{name}/mean", f"{name}/std")
            known = values[scored]
            metrics[mean] = known.mean().item() if len(known) else torch.nan
            metrics[std] = known.std().item() if len(known) > 1 else torch.nan
            if name != "reward":
                metrics[f"{name}/completions"] = float(len(known))
                groups = torch.arange(len(values)) // self.num_generations_eval
                metrics[f"{name}/prompts"] = float(len(groups[scored].unique()))
        return metrics


@contextmanager
def _seeded(name: str, device: torch.device) -> Iterator[None]:
    """Draw the random numbers that belong to a name, and put back the states of Python, NumPy and torch."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with undisturbed(None, device):
            set_seed(random.Random(name).getrandbits(32))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
