"""Completions that continue from their prompt's keys and values have the hidden states of a whole pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, Lfm2Config, LlamaConfig, MambaConfig
from trl.trainer.utils import add_fused_lm_head

from dgpo.engines.trl import heads, prompt_cache

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
MODELS = {
    "rotary positions": LlamaConfig(**SHAPE),
    "a sliding window shorter than the prompt": Gemma2Config(**SHAPE, sliding_window=3),
    "absolute positions": GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3),
}
PROMPT, LENGTH = 7, 5


def build(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    add_fused_lm_head(model)
    return model


def groups():
    """Two prompts of two completions each, not side by side; the second prompt and a completion are shorter."""
    ids = torch.randint(1, 32, (4, PROMPT + LENGTH), generator=torch.Generator().manual_seed(0))
    ids[2, :PROMPT], ids[3, :PROMPT] = ids[0, :PROMPT], ids[1, :PROMPT]
    mask = torch.ones_like(ids)
    mask[[1, 3], :3] = 0
    mask[2, -2:] = 0
    return ids, mask


@torch.no_grad()
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_hidden_states_are_those_of_a_whole_pass(config):
    model, (ids, mask) = build(config), groups()
    assert prompt_cache.fits(model)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-LENGTH] = -100
    seen = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with heads.reference_pass(copy_head=False) as passed:
        assert prompt_cache.score_after_prompts(model, config, ids, mask, LENGTH)
        model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    assert seen == [(2, PROMPT - 1), (4, LENGTH), (4, PROMPT + LENGTH)]
    _, ours, whole = passed
    assert ours.hidden.shape == (int(mask[:, -LENGTH:].sum()), 16)
    torch.testing.assert_close(ours.hidden, whole.hidden, rtol=1e-4, atol=1e-5)
    assert ours.weight is whole.weight


@torch.no_grad()
def test_prompts_that_nobody_shares_run_with_their_completions():
    model, (ids, mask) = build(MODELS["rotary positions"]), groups()
    with heads.reference_pass(copy_head=False) as passed:
        assert not prompt_cache.score_after_prompts(model, model.config, ids[:2], mask[:2], LENGTH)
        assert not prompt_cache.score_after_prompts(model, model.config, ids[:, PROMPT - 1 :], mask, LENGTH)
    assert passed == []


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1),
        Lfm2Config(**SHAPE | {"num_attention_heads": 2}, layer_types=["conv", "full_attention"]),
    ],
    ids=["recurrent", "convolutions beside attention"],
)
def test_a_model_with_another_state_does_not_continue_from_keys_and_values(config):
    assert not prompt_cache.fits(AutoModelForCausalLM.from_config(config))
