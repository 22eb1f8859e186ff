"""`dgpo.watch` changes no bit of the training."""

import pytest
import torch
from peft import LoraConfig
from support import FixedGRPOTrainer, lora, make_checkpoint, make_trainer, parameters, train_watched
from trl import GRPOTrainer

import dgpo
from dgpo.credit_log import read_credit_log

CONFIGURATIONS = {
    "plain": {},
    "reference": {"beta": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "several updates": {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4},
    "LoRA": {"peft_config": LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "down_proj"])},
    "checkpointing": {"gradient_checkpointing": True, "beta": 0.1},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 6},
}


@pytest.mark.parametrize("case", [*CONFIGURATIONS, "named checkpoint"])
def test_no_bit_of_the_training_changes(tmp_path, case):
    """Completions are sampled, with Adam and dropout: a random number drawn or a result moved would show."""
    path = make_checkpoint(tmp_path / "model", attention_dropout=0.1)
    options = {"optim": "adamw_torch", "learning_rate": 3e-3, "max_steps": 4, "max_grad_norm": 1.0, "use_cpu": True}
    options |= CONFIGURATIONS.get(case, {})
    watched = {"every": 1, "completions": 8}
    if case == "named checkpoint":
        watched["reference"] = make_checkpoint(tmp_path / "other", seed=1)
    trainers = [
        train_watched(path, tmp_path / name, trainer_class=GRPOTrainer, watched=given, **options)
        for name, given in (("without", None), ("with", watched))
    ]
    without, with_watch = trainers
    assert torch.equal(parameters(without), parameters(with_watch))
    logs = [[{k: v for k, v in entry.items() if "time" not in k} for entry in t.recorder.steps] for t in trainers]
    assert logs[0] == logs[1]
    steps = read_credit_log(tmp_path / "with")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    has_reference = case in ("reference", "LoRA", "checkpointing", "named checkpoint")
    for completion in (completion for step in steps for completion in step.completions):
        assert any(x is not None for x in completion.d) == has_reference
        assert all(x is not None for x in completion.h)


def test_what_is_frozen_of_an_adapter_stays_frozen(checkpoint, tmp_path):
    """PEFT trains all of an adapter that is switched on again."""
    runs = []
    for watched in (False, True):
        trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path / str(watched), peft_config=lora())
        for name, parameter in trainer.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_B" in name)
        if watched:
            dgpo.watch(trainer, every=1)
        trainer.train()
        runs.append((trainer, parameters(trainer)))
    assert torch.equal(runs[0][1], runs[1][1])
    trained = [name for name, parameter in runs[1][0].model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_B" in name for name in trained)


def test_two_runs_with_other_random_numbers_do_differ(tmp_path):
    """The comparison above could not fail if nothing random were drawn."""
    path = make_checkpoint(tmp_path / "model", attention_dropout=0.1)
    runs = []
    for extra in (0, 1):
        trainer = make_trainer(GRPOTrainer, path, tmp_path / str(extra), max_steps=2)
        torch.rand(extra)
        trainer.train()
        runs.append(parameters(trainer))
    assert not torch.equal(*runs)
