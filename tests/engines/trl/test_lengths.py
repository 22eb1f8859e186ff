"""Completions sorted by length and scored without padding: the parameters are the same, and fewer tokens are run."""

import pytest
import torch
from support import (
    FixedDGPOTrainer,
    lora,
    make_checkpoint,
    make_trainer,
    mostly_dead_reward,
    parameters,
    spread_reward,
)
from transformers import GPT2Config, LlamaConfig

from dgpo.credit_log import read_credit_log
from dgpo.engines.trl.lengths import has_relative_positions, sorted_by_length
from dgpo.engines.trl.settings import SUPPORTED_LOSS_TYPES

STEPS = 3


class CountingTrainer(FixedDGPOTrainer):
    """Counts the tokens that the policy and a reference of its own run, and those that are padding."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.run, self.padding = 0, 0
        self.composition = []
        for model in (self.model, self.ref_model):
            if model is not None:
                model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)

    def _count_tokens(self, model, args, kwargs):
        mask = kwargs["attention_mask"]
        self.run, self.padding = self.run + mask.numel(), self.padding + int((mask == 0).sum())

    def _compute_loss(self, model, inputs):
        rows = zip(inputs["completion_ids"].tolist(), inputs["completion_mask"].sum(-1).tolist(), strict=True)
        self.composition.append({tuple(ids[:count]) for ids, count in rows})
        return super()._compute_loss(model, inputs)


def train(checkpoint, folder, *, sort, **options):
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": STEPS}
    options = {**batch, "perturb": 0.05, "tau": 0.05, **options}
    trainer = make_trainer(CountingTrainer, checkpoint, folder, sort_by_length=sort, **options)
    torch.manual_seed(0)
    trainer.train()
    return trainer


def assert_same(checkpoint, tmp_path, **options):
    """Train with and without; the order of additions differs, so the last bits of float32 may."""
    ours, plain = (train(checkpoint, tmp_path / str(sort), sort=sort, **options) for sort in (True, False))
    assert ours.padding < plain.padding
    for step, (a, b) in enumerate(zip(ours.recorder.gradients, plain.recorder.gradients, strict=True)):
        assert (a - b).norm() <= 3e-6 * (step + 1) * b.norm(), f"gradients of update {step}"
    difference = (parameters(ours) - parameters(plain)).norm() / parameters(plain).norm()
    assert difference <= 1e-6
    for a, b in zip(ours.recorder.steps, plain.recorder.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=3e-7, abs=2e-7)
        for name in (name for name in a if name.startswith("dgpo/")):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    return ours, plain


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("loss_type", SUPPORTED_LOSS_TYPES)
def test_parameters_are_those_of_an_unsorted_run(checkpoint, tmp_path, loss_type, accumulation):
    batch = {"gradient_accumulation_steps": accumulation, "steps_per_generation": 4}
    ours, plain = assert_same(checkpoint, tmp_path, loss_type=loss_type, **batch)
    assert (ours.composition == plain.composition) == (accumulation == 1 or loss_type == "bnpo")


CASES = {
    "lora": {"peft_config": lora()},
    "several iterations": {"num_iterations": 2, "max_steps": 6},
    "several updates a rollout": {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "max_steps": 8},
    "several rollouts an update": {"gradient_accumulation_steps": 8, "steps_per_generation": 4, "max_steps": 2},
    "old credit": {"num_iterations": 2, "credit_policy": "old", "max_steps": 6},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 8},
    "dead rows": {"reward": mostly_dead_reward},
    "kl": {"beta": 0.1, "max_steps": 2},
    "off-policy mask": {"off_policy_mask_threshold": 0.1, "num_iterations": 2, "max_steps": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_with_other_settings(checkpoint, tmp_path, case):
    ours, plain = assert_same(checkpoint, tmp_path, **CASES[case])
    assert ours.composition != plain.composition
    if case not in (
        "truncated",
        "dead rows",
    ):  # where a micro-batch has nothing to score, one row is scored all the same
        assert ours.run - ours.padding == plain.run - plain.padding


READERS = {
    "bnpo": {"loss_type": "bnpo"},
    "entropy bonus": {"entropy_coef": 0.01},
    "entropy quantile": {"top_entropy_quantile": 0.5},
    "batch-wide rule": {"credit_rule": "effective_share", "tau": None},
    "whole groups": {"credit_rule": "gtpo", "tau": None, "credit_policy": "old"},
    "updates across rollouts": {"gradient_accumulation_steps": 4, "steps_per_generation": 6},
}


@pytest.mark.parametrize("case", READERS)
def test_where_it_matters_which_completions_lie_together_they_stay(checkpoint, tmp_path, case, caplog):
    caplog.set_level("INFO")
    ours, plain = (train(checkpoint, tmp_path / str(s), sort=s, max_steps=1, **READERS[case]) for s in (True, False))
    assert ours.composition == plain.composition
    assert ours.padding < plain.padding
    assert len([record for record in caplog.records if "leaves its completions" in record.message]) == 1


def test_a_model_whose_positions_depend_on_the_padding_is_left_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    checkpoint = make_checkpoint(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    ours, plain = (train(checkpoint, tmp_path / str(s), sort=s, max_steps=1) for s in (True, False))
    assert torch.equal(parameters(ours), parameters(plain))
    assert len([record for record in caplog.records if "sort_by_length is off" in record.message]) == 1


def test_which_models_have_relative_positions():
    layers = {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {"rope_type": "default"}}
    mixed = LlamaConfig()
    mixed.rope_parameters = layers
    assert has_relative_positions(LlamaConfig())
    assert has_relative_positions(mixed)
    mixed.rope_parameters = layers | {"full_attention": {"rope_type": "longrope"}}
    assert not has_relative_positions(mixed)
    mixed.rope_parameters = {"rope_type": "yarn", "llama_4_scaling_beta": 0.1}
    assert not has_relative_positions(mixed)
    assert not has_relative_positions(GPT2Config())


def test_everything_of_a_completion_goes_with_it():
    rows = torch.arange(6)
    batches = []
    for part in rows.split(2):
        lengths = torch.tensor([3, 1, 4, 2, 6, 5])[part]
        mask = (torch.arange(6) < lengths[:, None]).long()
        column = {"completion_ids": mask * part[:, None], "completion_mask": mask, "prompt_mask": torch.ones(2, 1)}
        column |= {"per_row": part, "texts": [str(row) for row in part.tolist()]}
        batches.append(column | {"num_items_in_batch": torch.tensor(21.0), "absent": None})
    found = sorted_by_length(batches)
    assert [batch["per_row"].tolist() for batch in found] == [[4, 5], [2, 0], [3, 1]]
    for batch in found:
        assert batch["texts"] == [str(row) for row in batch["per_row"].tolist()]
        assert torch.equal(batch["completion_ids"], batch["completion_mask"] * batch["per_row"][:, None])
        assert batch["num_items_in_batch"] == 21.0
        assert batch["absent"] is None


def test_the_credit_log_shows_the_same_completions(checkpoint, tmp_path):
    logs = []
    for sort in (True, False):
        options = {"reward": spread_reward, "credit_log_steps": 1, "credit_log_completions": 8, "max_steps": 2}
        train(checkpoint, tmp_path / str(sort), sort=sort, **options)
        steps = read_credit_log(tmp_path / str(sort))
        logs.append([{tuple(one.ids): one for one in step.completions} for step in steps])
    for ours, plain in zip(*logs, strict=True):
        assert len(ours) == 8
        assert ours.keys() == plain.keys()
        for ids, one in ours.items():
            other = plain[ids]
            assert (one.group, one.prompt, one.advantage) == (other.group, other.prompt, other.advantage)
            for name in ("d", "h", "logp", "w"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-3, abs=2e-5), name
