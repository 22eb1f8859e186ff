"""Workers with verl's Megatron engine on two ranks against dense float64: tensor, pipeline and data parallel."""

import inspect
import json
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from support import MEGATRON, run_ranks

sys.path.append(str(MEGATRON))
pytest.importorskip("megatron.core", reason=f"no megatron-core in {MEGATRON}; `make test-verl` installs it")

import verl  # noqa: F401  isort: skip
from megatron.core.models.gpt import GPTModel
from verl.workers.engine.megatron.transformer_impl import MegatronEngineWithLMHead

from dgpo.engines.verl import compat, megatron
from dgpo.errors import TrainingError

TENSOR = "tensor_model_parallel_size=2"
SEQUENCE = (TENSOR, "override_transformer_config.sequence_parallel=True")
PIPELINE = "pipeline_model_parallel_size=2"
DYNAMIC = (
    *("actor_rollout_ref.actor.use_dynamic_bsz=True", "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"),
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=32",
)
TIED = {"tie_word_embeddings": True}
DEEPER = {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}  # two stages a rank
ENTROPY = ("actor_rollout_ref.actor.entropy_coeff=0.1",)

CASES = {
    "tensor": {"megatron": [TENSOR], "overrides": ENTROPY, "temperature": 0.7, "hook": True},
    "sequence": {"megatron": SEQUENCE, "overrides": DYNAMIC, "skips": True},
    "tied": {"megatron": SEQUENCE, "model": TIED},
    "pipeline": {"megatron": [PIPELINE], "model": TIED, "skips": True},
    "interleaved": {"megatron": [PIPELINE, "virtual_pipeline_model_parallel_size=2"], "model": DEEPER},
    "data": {"megatron": ["tensor_model_parallel_size=1"]},
}
LAST_STAGE = {"pipeline": [1], "interleaved": [1], "data": [0, 1]}
"""Ranks that report statistics; where they are tensor parallel, the first."""


@pytest.fixture(scope="module")
def figures(model, tmp_path_factory):
    """Of every rank, by case."""
    folder = str(tmp_path_factory.mktemp("megatron"))
    return run_ranks("megatron_rank.py", model, json.dumps(CASES), folder, ranks=2, path=MEGATRON)


@pytest.mark.parametrize("case", CASES)
def test_statistics_and_credit_equal_dense_float64(figures, case):
    reporting = [rank for rank, of_rank in enumerate(figures) if "d_mean" in of_rank[case]]
    assert reporting == LAST_STAGE.get(case, [0])
    for rank in reporting:
        of_case = figures[rank][case]
        assert of_case["hellinger_sq"] <= 1e-6
        assert max(of_case[name] for name in ("log_probs", "entropy", "ref_log_probs", "credit")) <= 1e-5
        assert of_case["d_mean"] > 0.01
        assert of_case["credit_range"] > 1


@pytest.mark.parametrize("case", CASES)
def test_an_untrained_policy_is_exactly_its_reference(figures, case):
    assert {of_rank[case].get("d_at_start", 0.0) for of_rank in figures} == {0.0}


@pytest.mark.parametrize("case", CASES)
def test_an_update_gives_loss_and_parameters_of_dense_float64(figures, case):
    for of_rank in figures:
        assert of_rank[case].get("loss", 0.0) <= 1e-6
        assert of_rank[case]["parameters"] <= 1e-6  # of a step of SGD, which moves each tensor of them by more than
        assert of_rank[case]["smallest_move"] > 1e-3


def test_megatrons_own_hook_gives_statistics_and_gradients_of_dense_float64(figures):
    assert [of_rank["tensor"]["hook"] <= 1e-5 for of_rank in figures] == [True, True]


def test_completions_without_advantage_are_left_out_of_the_update(figures):
    tokens = {case: sum(of_rank[case]["tokens"] for of_rank in figures[-1:]) for case in CASES}
    for case in ("sequence", "pipeline"):
        assert 0 < tokens[case] <= 0.6 * tokens["tied"]


def test_we_override_nothing_else_and_verl_has_the_hooks_we_rely_on():
    ours = megatron.DGPOMegatronEngine
    overridden = {
        name
        for name, member in vars(ours).items()
        if inspect.isfunction(member) and hasattr(MegatronEngineWithLMHead, name)
    }
    assert overridden == set(compat.MEGATRON_OVERRIDDEN[compat.MEGATRON])
    assert compat.hook_differences((compat.MEGATRON_OVERRIDDEN, compat.MEGATRON_CALLED)) == []


def test_a_hook_that_differs_is_named(monkeypatch):
    monkeypatch.delattr("verl.models.mcore.model_forward_fused.linear_cross_entropy")
    with pytest.raises(compat.UnsupportedVersionError, match=r"model_forward_fused\.linear_cross_entropy is not there"):
        compat.check_megatron.__wrapped__()


def test_verl_takes_statistics_of_the_last_stage_and_its_own_loss_from_where_we_stand():
    source = inspect.getsource(MegatronEngineWithLMHead.postprocess_micro_batch_func)
    marks = ("self.prepare_model_outputs(output, data)", "loss_function(", 'output["model_output"]')
    assert sorted(marks, key=source.index) == list(marks)


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_other_micro_batches_than_the_references_are_refused(alone):
    reference = megatron.ReferenceStates()
    weight, labels = torch.randn(8, 4), torch.tensor([[1, 2, 3]])
    hidden = torch.randn(3, 1, 4)
    with pytest.raises(TrainingError, match="other micro-batches"):
        reference.next_hidden(labels[0], alone)
    for _ in range(2):
        reference.capture(hidden, weight, labels, 1.0, "none", alone)
    torch.testing.assert_close(reference.next_hidden(labels[0], alone), hidden[:, 0], atol=0, rtol=0)
    with pytest.raises(TrainingError, match="in another order"):
        reference.next_hidden(labels[0].flip(0), alone)


def engine_with(chunk, **config):
    engine = megatron.DGPOMegatronEngine.__new__(megatron.DGPOMegatronEngine)
    engine.module, engine.is_value_model = [chunk], False
    engine.model_config = SimpleNamespace(hf_config=SimpleNamespace(vocab_size=500), mtp=SimpleNamespace(enable=False))
    engine.engine_config = SimpleNamespace(use_fused_kernels=False, use_remove_padding=True, **config)
    return engine


def test_what_is_no_gpt_model_is_refused():
    with pytest.raises(TrainingError, match=r"built a Linear; .*strategy=fsdp2"):
        engine_with(torch.nn.Linear(1, 1))._maybe_enable_fused_kernels()


def test_a_vocabulary_that_is_padded_is_refused():
    chunk = GPTModel.__new__(GPTModel)
    torch.nn.Module.__init__(chunk)
    chunk.vocab_size = 512
    with pytest.raises(TrainingError, match=r"500 tokens to 512.*tensor_model_parallel_size"):
        engine_with(chunk)._maybe_enable_fused_kernels()
