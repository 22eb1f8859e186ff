"""A vLLM that kept its first weights is noticed, and one that computes in another precision is not."""

from types import SimpleNamespace

import pytest
import torch

from dgpo.engines.trl.sampler import SamplerMonitor

SAMPLES = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "generation_kwargs": None}
TOKENS = (4, 32)


def noticed(sampled_from, *, moved, noise, tokens=TOKENS):
    """The notice, where policy and reference are `moved` nats apart and what sampled is `noise` from one of them."""
    generator = torch.Generator().manual_seed(0)

    def around(center, spread):
        return center + spread * torch.randn(tokens, generator=generator)

    reference = around(torch.full(tokens, -2.0), 1.0)
    policy = around(reference, moved)
    sampled = around(policy if sampled_from == "policy" else reference, noise)
    mask = torch.rand(tokens, generator=generator) < 0.8
    sampled[~mask], sampled[0, 0] = torch.nan, torch.nan
    monitor = SamplerMonitor()
    monitor.add(sampled, policy, reference, mask)
    first = monitor.notice()
    monitor.add(sampled, policy, reference, mask)
    assert first is None or monitor.notice() is None  # once
    return first is not None


@pytest.mark.parametrize("noise", [1e-6, 1e-2, 0.1])  # float32, bfloat16, a sampler that is quantized
def test_a_sampler_with_the_first_weights_is_noticed(noise):
    assert noticed("reference", moved=0.4, noise=noise)


@pytest.mark.parametrize("moved", [0.0, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("noise", [1e-6, 1e-2, 0.1, 1.0])
def test_the_noise_of_another_engine_is_not(moved, noise):
    assert not noticed("policy", moved=moved, noise=noise)
    assert not noticed("policy", moved=moved, noise=noise, tokens=(1, 6))


def test_before_the_first_update_nothing_can_be_told():
    assert not noticed("reference", moved=0.0, noise=0.2)


def test_one_token_does_not_decide():
    policy = torch.zeros(1, 40)
    reference, sampled = policy + 0.02, policy + 0.02
    sampled[0, :20] = 0.0
    reference[0, 39] = sampled[0, 39] = 30.0
    monitor = SamplerMonitor()
    monitor.add(sampled, policy, reference, torch.ones(1, 40) > 0)
    assert monitor.notice() is None


@pytest.mark.parametrize("changed", [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}, {"use_vllm": False}])
def test_log_probabilities_of_a_part_of_the_vocabulary_are_not_compared(changed):
    assert SamplerMonitor.of(SimpleNamespace(**{"use_vllm": True, **SAMPLES})) is not None
    assert SamplerMonitor.of(SimpleNamespace(**{"use_vllm": True, **SAMPLES, **changed})) is None
