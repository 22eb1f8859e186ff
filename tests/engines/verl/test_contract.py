"""What the adapter relies on in verl. A new verl fails here, by name, before it can fail anywhere else."""

import inspect
import sys
from importlib.metadata import entry_points

import pytest
import torch

import verl  # noqa: F401  isort: skip
from verl.single_controller.base.decorator import MAGIC_ATTR
from verl.trainer.ppo.utils import need_reference_policy
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import EngineEvalModeCtx, FSDPEngine, FSDPEngineWithLMHead
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils import padding

from dgpo import versions
from dgpo.engines.verl import compat
from dgpo.engines.verl.checks import sequence_parallel_size
from dgpo.engines.verl.engine import DGPOFSDPEngine, HeadStatistics
from dgpo.engines.verl.trainer import CreditStages, DGPOColocateAsyncTrainer, DGPOTrainer
from dgpo.engines.verl.worker import DGPOWorker
from dgpo.errors import UnsupportedVersionError

OVERRIDING = [
    (CreditStages, PPOTrainerSync, compat.TRAINERS[0]),
    (CreditStages, PPOTrainerColocateAsync, compat.TRAINERS[1]),
    (HeadStatistics, FSDPEngineWithLMHead, compat.ENGINE),
    (DGPOWorker, ActorRolloutRefWorker, compat.WORKER),
]


def test_verl_has_the_hooks_we_rely_on():
    assert compat.hook_differences() == []


@pytest.mark.parametrize(("ours", "theirs", "owner"), OVERRIDING, ids=["sync", "async", "engine", "worker"])
def test_we_override_nothing_else(ours, theirs, owner):
    overridden = {name for name, member in vars(ours).items() if inspect.isfunction(member) and hasattr(theirs, name)}
    assert overridden == set(compat.OVERRIDDEN[owner])


def test_a_hook_that_differs_is_named(monkeypatch):
    def _compute_advantage(self, batch):
        pass

    monkeypatch.setattr(PPOTrainer, "_compute_advantage", _compute_advantage)
    monkeypatch.delattr(FSDPEngineWithLMHead, "prepare_model_inputs")
    monkeypatch.delattr(padding, "response_to_nested")
    engine = "verl.workers.engine.fsdp.transformer_impl.FSDPEngineWithLMHead"
    differences = [
        *(
            f"verl.trainer.ppo.v1.{trainer} takes (self, batch), not (self, batch, metrics)"
            for trainer in (
                "trainer_sync.PPOTrainerSync._compute_advantage",
                "trainer_colocate_async.PPOTrainerColocateAsync._compute_advantage",
            )
        ),
        f"{engine}.prepare_model_inputs is not there, not (self, micro_batch)",
        "verl.workers.utils.padding.response_to_nested is not there, not (tensor, response_mask)",
    ]
    assert compat.hook_differences() == differences
    with pytest.raises(UnsupportedVersionError) as raised:
        compat.check_verl_version.__wrapped__()
    for difference in differences:
        assert difference in str(raised.value)


def test_the_plugin_is_an_entry_point_and_registers_the_trainers():
    (ours,) = (entry for entry in entry_points(group="verl.plugins") if entry.name == "dgpo")
    assert ours.value == "dgpo.engines.verl.plugin"
    assert get_trainer_cls("dgpo") is DGPOTrainer
    assert get_trainer_cls("dgpo_colocate_async") is DGPOColocateAsyncTrainer


def test_verls_trainers_leave_the_stages_that_we_override_to_their_base():
    """So that what we have run in one of them is what runs in the other."""
    stages = set(compat.OVERRIDDEN[compat.TRAINERS[0]]) - {"on_init_end"}
    assert not stages & (vars(PPOTrainerSync).keys() | vars(PPOTrainerColocateAsync).keys())
    assert inspect.getsource(PPOTrainerSync.on_init_end) == inspect.getsource(PPOTrainerColocateAsync.on_init_end)


def test_advantages_come_after_the_pass_of_old_log_probs_and_need_nothing_of_it():
    """That pass leaves out what has no advantage, so that they are computed before it as well."""
    source = inspect.getsource(PPOTrainer._step_once)
    marks = ("self._balance_batch(", "self._compute_old_log_prob(", "self._compute_advantage(", "self._update_actor(")
    assert sorted(marks, key=source.index) == list(marks)
    source = inspect.getsource(PPOTrainer._compute_advantage)
    assert source.count("old_log_prob") == 1  # in the list of fields, each of which may be absent
    assert '"rollout_log_probs" in data.batch' in source


def test_a_loss_is_normalized_by_what_verl_counts_before_it_cuts_micro_batches():
    source = inspect.getsource(FSDPEngine.forward_backward_batch)
    assert source.index("batch_num_tokens=") < source.index("prepare_micro_batches(")


def test_runs_without_dgpo_keep_verls_engine():
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is FSDPEngineWithLMHead
    assert not issubclass(FSDPEngineWithLMHead, HeadStatistics)
    assert issubclass(DGPOFSDPEngine, FSDPEngineWithLMHead)


def test_a_warm_up_begins_with_a_rollout_of_learning_rate_0_as_the_documents_say():
    from torch import nn
    from verl.utils.torch_functional import get_constant_schedule_with_warmup
    from verl.workers.engine_workers import TrainingWorker

    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=10)
    assert schedule.get_last_lr() == [0.0]
    assert "update_lr_scheduler=batch_idx == total_num_iterations - 1" in inspect.getsource(TrainingWorker)


@pytest.mark.parametrize(("own", "engine"), [(1, 1), (1, 2), (2, 1), (2, 4)])
def test_ulysses_is_counted_as_verls_engines_do(own, engine):
    from support import compose_config
    from verl.utils.config import omega_conf_to_dataclass

    section = compose_config().actor_rollout_ref.actor  # the reference's becomes the same class
    section.ulysses_sequence_parallel_size = own
    section.fsdp_config.ulysses_sequence_parallel_size = engine
    used = omega_conf_to_dataclass(section).engine.ulysses_sequence_parallel_size
    assert sequence_parallel_size(section) == used


def test_gpus_that_share_a_sequence_get_a_pack_for_each_of_them_as_the_documents_say():
    from verl.workers.engine.utils import prepare_micro_batches

    assert "max_token_len = max_token_len_per_gpu * sp_size" in inspect.getsource(prepare_micro_batches)


def test_a_reference_is_built_for_a_kl_penalty_alone_which_is_why_we_ask_for_one():
    source = inspect.getsource(need_reference_policy)
    assert "config.actor_rollout_ref.actor.use_kl_loss" in source
    assert "need_reference_policy(config)" in inspect.getsource(PPOTrainer._init_resource_pool_mgr)


def test_verl_reads_the_trainer_mode_as_a_literal_which_is_why_ours_becomes_sync():
    assert 'self.trainer_mode == "sync"' in inspect.getsource(PPOTrainer._build_replay_buffer)


def test_the_old_log_probs_pass_hands_extra_info_to_the_workers_and_stores_what_they_return():
    source = inspect.getsource(PPOTrainer._compute_old_log_prob)
    assert "batch.extra_info.update(" in source
    assert "self.actor_rollout_wg.compute_log_prob(batch)" in source
    assert hasattr(ActorRolloutRefWorker.compute_log_prob, MAGIC_ATTR)
    assert hasattr(DGPOWorker.dgpo_facts, MAGIC_ATTR)


def test_a_forward_pass_prepares_calls_and_reads_the_logits_in_this_order():
    source = inspect.getsource(FSDPEngineWithLMHead.forward_step)
    marks = ("self.prepare_model_inputs(", "self.module(", "self.prepare_model_outputs(", "loss_function(")
    assert sorted(marks, key=source.index) == list(marks)
    assert 'output_args["input_ids_rmpad_rolled"]' in inspect.getsource(FSDPEngineWithLMHead.prepare_model_inputs)
    assert "self._autocast_dtype" in inspect.getsource(FSDPEngine._build_fsdp_module)


def test_eval_mode_of_the_reference_inside_that_of_the_policy_restores_the_policys():
    source = inspect.getsource(EngineEvalModeCtx)
    assert "self.prev_sp_group = get_ulysses_sequence_parallel_group()" in source
    assert "set_ulysses_sequence_parallel_group(self.prev_sp_group)" in source


def test_workers_choose_their_engine_by_device_and_vendor_first():
    source = inspect.getsource(EngineRegistry.get_engine_cls)
    assert source.index("vendor_key in registry") < source.index("if device in registry")


def installed_version(monkeypatch, text):
    monkeypatch.setattr(versions, "version", lambda package: text)
    return compat.check_verl_version.__wrapped__  # the result of the installed verl is remembered


@pytest.mark.parametrize("installed", ["0.9.0", "0.9.2", "0.10.0", "1.0", "0.8.1.post2"])
def test_other_versions_are_refused_with_the_supported_range(monkeypatch, installed):
    check = installed_version(monkeypatch, installed)
    with pytest.raises(UnsupportedVersionError, match=rf"verl {installed} .*verl>=0\.9\.1,<0\.9\.2"):
        check()


@pytest.mark.parametrize("installed", ["0.9.1", "0.9.1.post1", "0.9.1.dev0"])
def test_checked_versions_pass(monkeypatch, installed):
    installed_version(monkeypatch, installed)()


def test_another_version_whose_hooks_match_is_tried_on_request_with_a_warning(monkeypatch):
    check = installed_version(monkeypatch, "0.9.2")
    monkeypatch.setenv("DGPO_ALLOW_UNTESTED_VERL", "1")
    with pytest.warns(UserWarning, match=r"verl 0\.9\.2 has not been tested"):
        check()
    monkeypatch.delattr(padding, "response_to_nested")
    with pytest.raises(UnsupportedVersionError, match="response_to_nested is not there"):
        check()


def test_an_absent_megatron_core_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "megatron.core", None)
    with pytest.raises(UnsupportedVersionError, match=r"needs megatron-core .*pip install megatron-core"):
        compat.check_megatron.__wrapped__()


def test_an_absent_verl_is_named_with_the_remedy(monkeypatch):
    def absent(package):
        raise versions.PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", absent)
    with pytest.raises(UnsupportedVersionError, match=r"pip install 'dgpo\[verl\]'"):
        compat.check_verl_version.__wrapped__()
