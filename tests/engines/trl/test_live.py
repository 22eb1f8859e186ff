"""Completions with advantage 0 are left out of the passes, and nothing but the time of a step changes."""

from collections import Counter

import pytest
import torch
from support import FixedDGPOTrainer, lora, loss_inputs, make_trainer, mostly_dead_reward, parameters, spread_reward

from dgpo import DGPOConfig
from dgpo.core import credit_rule
from dgpo.credit_log import read_credit_log
from dgpo.engines.trl.settings import SUPPORTED_LOSS_TYPES

STEPS = 5


class CountingTrainer(FixedDGPOTrainer):
    """Counts the completions that each loss runs through the policy."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scored = []

    def _score(self, model, inputs, *args, **options):
        if torch.is_grad_enabled() or not model.training:
            self.scored.append(len(inputs["completion_ids"]))
        return super()._score(model, inputs, *args, **options)


def train(checkpoint, folder, *, skip, **options):
    options = {"reward": mostly_dead_reward, "perturb": 0.05, "tau": 0.05, "max_steps": STEPS, **options}
    trainer = make_trainer(CountingTrainer, checkpoint, folder, skip_zero_advantage=skip, **options)
    trainer.train()
    return trainer


def assert_same(checkpoint, tmp_path, **options):
    """Train with and without the dead completions; the order of additions differs, so the last bits may."""
    skipping, whole = (train(checkpoint, tmp_path / str(skip), skip=skip, **options) for skip in (True, False))
    assert len(skipping.scored) == len(whole.scored)
    assert sum(skipping.scored) < sum(whole.scored)
    for step, (ours, all_rows) in enumerate(zip(skipping.recorder.gradients, whole.recorder.gradients, strict=True)):
        # The parameters of later updates differ in their last bits already.
        assert (ours - all_rows).norm() <= 2e-6 * (step + 1) * all_rows.norm(), f"gradients of update {step}"
    # float32: the next number after 1 is 1.2e-7 away.
    torch.testing.assert_close(parameters(skipping), parameters(whole), rtol=1.2e-7, atol=1e-7)
    for ours, all_rows in zip(skipping.recorder.steps, whole.recorder.steps, strict=True):
        assert ours["loss"] == pytest.approx(all_rows["loss"], abs=1e-7)
        for name in ("clip_ratio/region_mean", "clip_ratio/high_max", "reward", "frac_reward_zero_std"):
            assert ours.get(name) == all_rows.get(name)
    return skipping, whole


@pytest.mark.parametrize(
    ("loss_type", "accumulation"), [*((name, 1) for name in SUPPORTED_LOSS_TYPES), ("grpo", 4), ("dapo", 4)]
)
def test_parameters_are_those_of_all_completions(checkpoint, tmp_path, loss_type, accumulation):
    batch = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8 if accumulation == 1 else 4}
    skipping, _ = assert_same(checkpoint, tmp_path, loss_type=loss_type, **batch)
    assert 1 in skipping.scored  # also batches without a live completion
    assert max(skipping.scored) > 1


CASES = {
    "old credit": {"num_iterations": 2, "steps_per_generation": 2, "credit_policy": "old", "max_steps": 8},
    "several iterations": {"num_iterations": 2, "steps_per_generation": 2, "max_steps": 8},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 8, "reward": spread_reward},
    "lora": {"peft_config": lora()},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "adam": {"optim": "adamw_torch", "learning_rate": 1e-3, "weight_decay": 0.1},
    "a rule without reference": {"credit_rule": "even", "tau": None},
    "nothing alive": {"reward": lambda completions, **columns: [0.0] * len(completions), "optim": "adamw_torch"},
}


@pytest.mark.parametrize("case", CASES)
def test_with_other_settings(checkpoint, tmp_path, case):
    skipping, _ = assert_same(checkpoint, tmp_path, **CASES[case])
    if case == "nothing alive":
        assert skipping.scored == [1] * STEPS
        assert all("dgpo/weight/std" not in entry for entry in skipping.recorder.steps)


READERS = {
    "kl": {"beta": 0.1},
    "entropy bonus": {"entropy_coef": 0.01},
    "entropy quantile": {"top_entropy_quantile": 0.5},
    "batch-wide rule": {"credit_rule": "effective_share", "tau": None},
    "whole groups": {"credit_rule": "gtpo", "tau": None},
    "switched off": {},
}


@pytest.mark.parametrize("case", READERS)
def test_what_reads_dead_completions_has_them(checkpoint, tmp_path, case, caplog):
    caplog.set_level("INFO")
    trainer = train(checkpoint, tmp_path, skip=case != "switched off", max_steps=1, **READERS[case])
    assert trainer.scored == [8]
    said = [record.message for record in caplog.records if "advantage 0" in record.message]
    assert len(said) == (case != "switched off")


def test_metrics_are_those_of_the_live_completions(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05)
    trainer.current_gradient_accumulation_steps = 1
    inputs = loss_inputs() | {"advantages": torch.tensor([0.0, -0.5, 0.0, 1.0])}
    live = {name: value[[1, 3]] if value.dim() else value for name, value in inputs.items()}
    seen = []
    for given in (inputs, live):
        trainer._metrics["train"].clear()
        trainer._totals.clear()
        trainer.model.train()
        trainer._compute_loss(trainer.model, given)
        seen.append({"entropy": trainer._metrics["train"]["entropy"][0], **trainer._totals["train"].metrics()})
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_credit_log_shows_whole_groups_and_changes_no_bit(checkpoint, tmp_path, adapter):
    options = {"peft_config": lora() if adapter else None, "gradient_accumulation_steps": 2, "disable_dropout": False}
    plain = train(checkpoint, tmp_path / "plain", skip=True, **options)
    logged = train(checkpoint, tmp_path / "logged", skip=True, credit_log_steps=1, **options)
    assert torch.equal(parameters(plain), parameters(logged))
    assert [entry["entropy"] for entry in plain.recorder.steps] == [e["entropy"] for e in logged.recorder.steps]
    steps = read_credit_log(tmp_path / "logged")
    assert len(steps) == STEPS
    for step in steps:
        groups = Counter(completion.group for completion in step.completions)
        assert set(groups.values()) == {4}
        for completion in step.completions:
            assert all(value is not None for value in completion.d)
    assert {completion.advantage == 0 for step in steps for completion in step.completions} == {True, False}


def test_an_evaluation_scores_all(checkpoint, tmp_path):
    trainer = make_trainer(CountingTrainer, checkpoint, tmp_path)
    trainer.model.eval()
    with torch.no_grad():
        trainer._compute_loss(trainer.model, loss_inputs() | {"advantages": torch.tensor([0.0, 0.0, 0.0, 1.0])})
    assert trainer.scored == [4]


@credit_rule(reads=())
def compared_with_the_batch(stats):
    """Batch-wide, and not marked as such."""
    mask = stats.completion_mask.float()
    surprising = (stats.entropy > stats.entropy[stats.completion_mask].median()).float() + 0.5
    weights = surprising * mask
    return weights * mask.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1e-6)


def test_a_rule_that_compares_completions_is_noticed():
    options = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": []}
    assert (
        not DGPOConfig(credit_rule=f"{__name__}:compared_with_the_batch", **options)
        .resolve_rule()
        .traits.per_completion
    )
    assert DGPOConfig(credit_rule="capped", **options).resolve_rule().traits.per_completion
