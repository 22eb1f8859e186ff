"""What the adapter relies on in TRL. A new TRL fails here, by name, before it can fail anywhere else."""

import inspect
from types import SimpleNamespace

import pytest
import trl.trainer.utils as trl_utils
from support import FixedDGPOTrainer, make_trainer
from trl import GRPOTrainer
from trl.kernels import chunked_logprob

from dgpo.engines.trl import compat
from dgpo.errors import UnsupportedVersionError


@pytest.mark.parametrize("hook", compat.TRAINER_HOOKS)
def test_trl_has_the_hooks_we_override(hook):
    assert tuple(inspect.signature(getattr(GRPOTrainer, hook)).parameters) == compat.TRAINER_HOOKS[hook]


def test_we_override_nothing_else():
    ours = {
        name
        for name, member in vars(__import__("dgpo").DGPOTrainer).items()
        if inspect.isfunction(member) and hasattr(GRPOTrainer, name)
    }
    assert ours == {*compat.TRAINER_HOOKS, "__init__"}


def test_trl_has_the_attributes_we_read(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path)
    assert [name for name in compat.TRAINER_ATTRIBUTES if not hasattr(trainer, name)] == []


def test_trl_calls_the_head_kernel_as_we_answer_it():
    kernel = trl_utils._ChunkedLogProbFunction
    assert tuple(inspect.signature(kernel.forward).parameters) == compat.HEAD_KERNEL_PARAMETERS
    assert chunked_logprob.OPTIONAL_OUTPUTS == compat.HEAD_KERNEL_OUTPUTS
    source = inspect.getsource(trl_utils.add_fused_lm_head)
    assert "_ChunkedLogProbFunction.apply(" in source
    assert "compact = _use_triton(hidden_states.device)" in source
    assert "log_probs, entropy, log_sum_sq_probs, mean_logits, is_top1 = per_token" in source


def test_trl_reads_advantages_after_it_has_scored_and_accepts_one_per_token():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert source.index("self._get_per_token_logps_and_entropies(") < source.index('inputs["advantages"]')
    assert "if advantages.dim() == 1:" in source


def test_everything_that_builds_the_reference_hangs_on_beta():
    source = inspect.getsource(GRPOTrainer.__init__)
    assert "self.beta = args.beta\n        if self.beta == 0.0:" in source
    assert "elif is_peft_model(model) and args.beta != 0.0:" in source


@pytest.mark.parametrize("installed", ["1.15.2", "1.17.0", "2.0.0", "0.29"])
def test_other_versions_are_refused_with_the_supported_range(installed):
    with pytest.raises(UnsupportedVersionError, match=rf"trl {installed} .*trl>=1\.16,<1\.17"):
        compat.check_trl_version(installed)


@pytest.mark.parametrize("installed", ["1.16.0", "1.16.4", "1.16.1.dev0"])
def test_checked_versions_pass(installed):
    compat.check_trl_version(installed)


def test_an_unsupported_version_is_refused_at_construction(monkeypatch):
    monkeypatch.setattr(compat, "version", lambda package: "1.18.0")
    with pytest.raises(UnsupportedVersionError, match=r"trl 1\.18\.0"):
        FixedDGPOTrainer(SimpleNamespace())


def test_an_absent_trl_is_named_with_the_remedy(monkeypatch):
    def absent(package):
        raise compat.PackageNotFoundError(package)

    monkeypatch.setattr(compat, "version", absent)
    with pytest.raises(UnsupportedVersionError, match=r"pip install 'dgpo\[trl\]'"):
        compat.check_trl_version()
