"""Completions scored as one row, by transformers' flash attention with plain attention in place of the kernel.

The kernel runs on GPUs alone. What decides which tokens see each other (cumulative lengths) is transformers' own.
"""

import pytest
import torch
from support import lora, make_checkpoint, make_trainer, mostly_dead_reward, parameters
from test_lengths import CountingTrainer
from transformers import AutoModelForCausalLM, Lfm2Config, Lfm2ForCausalLM, modeling_flash_attention_utils

from dgpo.engines.trl.padding_free import check_padding_free, without_wrappers
from dgpo.errors import ConfigError


def varlen(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=0
):
    """Of (tokens, heads, width), with the arguments of flash attention's function."""
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    lengths = cu_seqlens_q.diff().tolist()
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    return torch.cat([padded(*(x[None] for x in row), softmax_scale=softmax_scale, causal=causal)[0] for row in rows])


def padded(q, k, v, dropout_p=0.0, softmax_scale=None, causal=0):
    """Of (B, tokens, heads, width)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    options = {"is_causal": bool(causal), "scale": softmax_scale, "enable_gqa": True}
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2)


@pytest.fixture(autouse=True)
def flash_attention(monkeypatch):
    module = modeling_flash_attention_utils
    monkeypatch.setattr(module, "_loaded_implementation", None)
    helpers = (module._pad_input, module._unpad_input)
    monkeypatch.setattr(module, "_lazy_imports", lambda *args, **kwargs: (padded, varlen, None, *helpers))


class PackedTrainer(CountingTrainer):
    """Counts the tokens that run through the first layers of policy and reference, and the rows that they lie in."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.layer_tokens, self.most_rows = 0, 0
        for model in (self.model, self.ref_model):
            if model is not None:
                without_wrappers(model).base_model.layers[0].register_forward_pre_hook(self._count_layer)

    def _count_layer(self, layer, args):
        if args[0].shape[1] > 1:  # else it is sampling
            self.layer_tokens += args[0].shape[:2].numel()
            self.most_rows = max(self.most_rows, len(args[0]))


def flash_model(checkpoint, **_):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.config._attn_implementation = "flash_attention_2"  # from_pretrained would ask for the package
    return model


@pytest.fixture
def trainer(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", flash_model)  # of the reference

    def made(checkpoint=checkpoint, **options):
        batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}
        options = {**batch, "perturb": 0.05, "tau": 0.05, "model": flash_model(checkpoint), **options}
        return make_trainer(PackedTrainer, checkpoint, tmp_path, **options)

    return made


CASES = {
    "as it is": {},
    "cispo": {"loss_type": "cispo", "temperature": 0.8},
    "lora": {"peft_config": lora()},
    "old credit, several iterations": {"num_iterations": 2, "credit_policy": "old", "max_steps": 4},
    "kept reference": {"num_iterations": 2, "max_steps": 4},
    "dead rows": {"reward": mostly_dead_reward},
    "kl": {"beta": 0.1, "max_steps": 2},
    "sorted": {"sort_by_length": True},
    "one completion": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_a_padded_run(trainer, case):
    runs = {}
    for is_packed in (True, False):
        runs[is_packed] = trainer(padding_free=is_packed, **CASES[case])
        torch.manual_seed(0)
        runs[is_packed].train()
    packed, plain = runs[True], runs[False]
    assert packed.layer_tokens == packed.run - packed.padding
    assert packed.most_rows == 1
    assert plain.layer_tokens == plain.run
    if case != "one completion":
        assert packed.layer_tokens < plain.layer_tokens
    for step, (a, b) in enumerate(zip(packed.recorder.gradients, plain.recorder.gradients, strict=True)):
        assert (a - b).norm() <= 3e-6 * (step + 1) * b.norm(), f"gradients of update {step}"
    assert (parameters(packed) - parameters(plain)).norm() <= 1e-6 * parameters(plain).norm()
    for a, b in zip(packed.recorder.steps, plain.recorder.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=3e-7, abs=2e-7)
        for name in (name for name in a if name.startswith("dgpo/")):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name


def test_it_is_refused_without_flash_attention(trainer, checkpoint):
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"needs flash attention.*attn_implementation='sdpa'.*sort_by_length"):
        trainer(padding_free=True, model=plain)


def test_it_is_refused_where_positions_depend_on_the_padding(trainer, tmp_path):
    scaled = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    checkpoint = make_checkpoint(tmp_path / "dynamic", rope_parameters=scaled)
    with pytest.raises(ConfigError, match="LlamaForCausalLM depend on the padding"):
        trainer(checkpoint, padding_free=True)


def test_it_is_refused_where_completions_of_a_pack_would_not_be_apart(trainer):
    made = trainer(padding_free=True)
    # Layers of convolutions, whose state goes from one token to the next.
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Lfm2Config(vocab_size=30, num_hidden_layers=2, layer_types=["conv", "full_attention"], **shape)
    made.model = Lfm2ForCausalLM(config)
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="Lfm2ForCausalLM has layers with a state"):
        check_padding_free(made)


def test_it_is_refused_beside_a_load_balancing_loss(trainer):
    made = trainer(padding_free=True)
    made.aux_loss_enabled = True
    with pytest.raises(ConfigError, match="Set router_aux_loss_coef to 0"):
        check_padding_free(made)
