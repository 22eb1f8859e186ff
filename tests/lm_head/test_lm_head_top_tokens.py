"""The likeliest tokens of a few rows are those of the full softmax, however the vocabulary is cut."""

import sys

import pytest
import torch

from dgpo.lm_head import top_tokens


@pytest.fixture
def heads():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(41, 7, generator=generator),
        torch.randn(401, 7, generator=generator),
        torch.randn(401, generator=generator),
    )


@pytest.mark.parametrize("tile", [16, 401, 16384])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"softcap": 3.0, "logit_scale": 0.25, "temperature": 2.0}]
)
def test_it_is_the_top_of_the_softmax(heads, monkeypatch, tile, options):

    monkeypatch.setattr(sys.modules["dgpo.lm_head.top_tokens"], "_VOCAB", tile)
    monkeypatch.setattr(sys.modules["dgpo.lm_head.top_tokens"], "_ROWS", 8)
    hidden, weight, bias = heads
    logits = (hidden @ weight.T + bias) * options.get("logit_scale", 1.0)
    if "softcap" in options:
        logits = options["softcap"] * torch.tanh(logits / options["softcap"])
    expected = (logits / options.get("temperature", 1.0)).softmax(-1).topk(5, dim=-1)
    probabilities, ids = top_tokens(hidden, weight, 5, bias=bias, **options)
    torch.testing.assert_close(probabilities, expected.values)
    assert torch.equal(ids, expected.indices)


def test_a_small_vocabulary_gives_all_of_it(heads):
    hidden, weight, _ = heads
    probabilities, ids = top_tokens(hidden, weight[:3], 5)
    assert ids.shape == (41, 3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(41))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"softcap": -1.0}, {"logit_scale": float("nan")}], ids=str)
def test_options_that_give_no_distribution_are_refused(heads, options):
    hidden, weight, _ = heads
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got {value}"):
        top_tokens(hidden, weight, 5, **options)


def test_no_rows_give_nothing(heads):
    hidden, weight, _ = heads
    probabilities, ids = top_tokens(hidden[:0], weight, 5)
    assert probabilities.shape == ids.shape == (0, 5)


def test_nothing_carries_a_gradient(heads):
    hidden, weight, _ = heads
    probabilities, _ids = top_tokens(hidden.requires_grad_(), weight.bfloat16(), 2)
    assert not probabilities.requires_grad
