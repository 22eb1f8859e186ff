"""With several iterations over a rollout the reference runs once for what is kept; no bit of the training changes."""

import pytest
import torch
from support import FixedDGPOTrainer, lora, make_dataset, make_trainer, mostly_dead_reward, parameters
from transformers import TrainerCallback

from dgpo import DGPOConfig
from dgpo.engines.trl import reference_states
from dgpo.errors import ConfigError

# Two rollouts of two micro-batches, each gone over twice: eight passes of the loss.
OPTIONS = {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 8}


def train(checkpoint, folder, monkeypatch, **options):
    """Return how often the reference ran, the parameters and what was logged."""
    passes = []

    def counted(trainer, *rest, run=reference_states.reference_head):
        passes.append(trainer.state.global_step)
        return run(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(reference_states, "reference_head", counted)
        trainer = make_trainer(FixedDGPOTrainer, checkpoint, folder, **{**OPTIONS, "learning_rate": 0.5, **options})
        trainer.eval_dataset = make_dataset(8)
        torch.manual_seed(0)
        trainer.train()
    told = [{k: v for k, v in step.items() if "time" not in k} for step in trainer.recorder.steps]
    return len(passes), parameters(trainer), told


class EvaluateOnce(TrainerCallback):
    """Evaluates within a rollout, in four batches."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step == 1


CASES = {
    "full": ({}, 4),
    "lora": ({"peft_config": lora()}, 4),
    "accumulation": ({"gradient_accumulation_steps": 2, "max_steps": 4, "reward": mostly_dead_reward}, 4),
    "evaluation in between": ({"callbacks": (EvaluateOnce(),)}, 8),  # of which four in the evaluation
    "a limit for one micro-batch": ({"reference_cache_mib": 4 * 12 * 16 * 4 / 2**20}, 6),
    "a moving reference": ({"sync_ref_model": True, "ref_model_sync_steps": 1}, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_no_bit_changes_and_the_reference_runs_once(checkpoint, tmp_path, monkeypatch, case):
    options, expected = CASES[case]
    passes, kept, told = train(checkpoint, tmp_path / "kept", monkeypatch, **options)
    without, repeated, told_without = train(
        checkpoint, tmp_path / "not", monkeypatch, **{**options, "reference_cache_mib": 0.0}
    )
    assert torch.equal(kept, repeated)
    assert told == told_without
    assert (passes, without) == (expected, 8 + 4 * ("callbacks" in options))


def test_a_reference_with_dropout_runs_every_time(tmp_path, monkeypatch):
    """The adapter is switched off, the base model's dropout is not: TRL's reference draws random numbers then."""
    from support import make_checkpoint

    checkpoint = make_checkpoint(tmp_path / "dropout", attention_dropout=0.3)
    passes, kept, _ = train(checkpoint, tmp_path / "kept", monkeypatch, peft_config=lora())
    without, repeated, _ = train(checkpoint, tmp_path / "not", monkeypatch, peft_config=lora(), reference_cache_mib=0.0)
    assert passes == without == 8
    assert torch.equal(kept, repeated)


@pytest.mark.parametrize("value", [-1.0, float("nan"), True])
def test_a_limit_that_is_none(tmp_path, value):
    with pytest.raises(ConfigError, match="reference_cache_mib must be"):
        DGPOConfig(output_dir=str(tmp_path), reference_cache_mib=value, use_cpu=True, report_to=[])
