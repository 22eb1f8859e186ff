"""What the adapter relies on in TRL. A new TRL fails here, by name, before it can fail anywhere else."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from support import FixedDGPOTrainer, make_trainer
from transformers import AutoModelForCausalLM, Trainer
from trl import GRPOTrainer
from trl.kernels import chunked_logprob
from trl.trainer import grpo_trainer
from trl.trainer.utils import create_model_from_path

from dgpo import DGPOTrainer, versions
from dgpo.engines.trl import compat
from dgpo.engines.trl.checkpoint import ExactResume
from dgpo.engines.trl.held_out import HeldOutRewards
from dgpo.engines.trl.lengths import SortedByLength
from dgpo.engines.trl.metrics import CreditMetrics
from dgpo.engines.trl.stop_strings import StopStrings
from dgpo.errors import TrainingError, UnsupportedVersionError


def test_trl_has_everything_we_rely_on():
    assert compat.hook_differences() == []


def test_a_hook_that_differs_is_named(monkeypatch):
    def compute(self, model, inputs, extra):
        raise AssertionError

    compute.__module__ = "trl.trainer.grpo_trainer"
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", compute)
    with pytest.raises(UnsupportedVersionError, match=r"GRPOTrainer\._compute_loss has the parameters"):
        compat.check_trl_version()


@pytest.mark.parametrize("name", ["compute_loss", "training_step"])
def test_a_package_that_replaces_the_way_to_the_loss_is_named(monkeypatch, checkpoint, tmp_path, name):
    def other(self, *args, **kwargs):
        raise AssertionError

    other.__module__ = "faster_package.patches"
    monkeypatch.setattr(GRPOTrainer, name, other)
    with pytest.raises(UnsupportedVersionError, match=rf"GRPOTrainer\.{name} was replaced by faster_package\.patches"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path)


def test_a_step_without_credit_is_an_error(checkpoint, tmp_path):
    class Elsewhere(FixedDGPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return sum(p.sum() for p in model.parameters()) * 0.0

    trainer = make_trainer(Elsewhere, checkpoint, tmp_path, max_steps=2)
    with pytest.raises(TrainingError, match=r"no credit was assigned.*compute_loss"):
        trainer.train()


def test_an_untested_version_is_tried_when_asked_for(monkeypatch):
    monkeypatch.setenv("DGPO_ALLOW_UNTESTED_TRL", "1")
    with pytest.warns(UserWarning, match=r"trl 1\.18\.0 has not been tested"):
        compat.check_trl_version("1.18.0")


def test_we_override_nothing_else():
    ours = {
        name
        for owner in (DGPOTrainer, ExactResume, CreditMetrics, HeldOutRewards, SortedByLength, StopStrings)
        for name, member in vars(owner).items()
        if inspect.isfunction(member) and hasattr(GRPOTrainer, name)
    }
    assert ours == {*compat.TRAINER_HOOKS, "__init__"}


def test_trl_calls_what_a_watch_surrounds_by_the_trainers_attribute():
    """`dgpo.watch` sets them on one trainer."""
    assert set(compat.WATCHED) <= {*compat.TRAINER_HOOKS}
    assert "self._compute_loss(model, inputs)" in inspect.getsource(GRPOTrainer.compute_loss)
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert source.count("self._generate_and_score_completions(generation_batch)") == 2
    # The loss of a step is computed of the very dictionary that lies in the buffer.
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self.current_gradient_accumulation_steps = len(" in inspect.getsource(Trainer)


def test_trl_has_the_attributes_we_read(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path)
    assert [name for name in compat.TRAINER_ATTRIBUTES if not hasattr(trainer, name)] == []


def test_the_reference_of_a_model_that_is_passed_is_loaded_as_that_one_was(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="eager")
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, model=model)
    assert trainer.ref_model.dtype == torch.bfloat16
    assert trainer.ref_model.config._attn_implementation == "eager"
    assert grpo_trainer.create_model_from_path is create_model_from_path


def test_trl_calls_the_head_kernel_as_we_answer_it():
    assert chunked_logprob.OPTIONAL_OUTPUTS == compat.HEAD_KERNEL_OUTPUTS


def test_trl_reads_advantages_after_it_has_scored_and_accepts_one_per_token():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert source.index("self._get_per_token_logps_and_entropies(") < source.index('inputs["advantages"]')
    assert source.count("self._get_per_token_logps_and_entropies(") == 1


@pytest.mark.parametrize("installed", ["1.14.2", "1.17.0", "2.0.0", "0.29"])
def test_other_versions_are_refused_with_the_supported_range(installed):
    with pytest.raises(UnsupportedVersionError, match=rf"trl {installed} .*trl>=1\.15,<1\.17"):
        compat.check_trl_version(installed)


@pytest.mark.parametrize("installed", ["1.15.0", "1.16.4", "1.16.1.dev0"])
def test_checked_versions_pass(installed):
    compat.check_trl_version(installed)


def test_an_unsupported_version_is_refused_at_construction(monkeypatch):
    monkeypatch.setattr(versions, "version", lambda package: "1.18.0")
    with pytest.raises(UnsupportedVersionError, match=r"trl 1\.18\.0"):
        FixedDGPOTrainer(SimpleNamespace())


def test_an_absent_trl_is_named_with_the_remedy(monkeypatch):
    def absent(package):
        raise versions.PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", absent)
    with pytest.raises(UnsupportedVersionError, match=r"pip install 'dgpo\[trl\]'"):
        compat.check_trl_version()
