"""The oracle against values by hand, torch.distributions and the core's functions of full logits."""

import math

import pytest
import torch
from lm_head_cases import make_case, run_reference

from dgpo.core import per_token_entropy, per_token_hellinger_sq
from dgpo.lm_head import lm_head_stats
from dgpo.lm_head.types import LogitTransform


def test_values_by_hand():
    # Logits log(4), 0 -> p = (.8, .2); reference log(1/9)... 0, log 9 -> q = (.1, .9).
    stats = lm_head_stats(
        torch.tensor([[1.0]], dtype=torch.float64),
        torch.tensor([[math.log(4)], [0.0]], dtype=torch.float64),
        torch.tensor([1]),
        ref_hidden=torch.tensor([[2.0]], dtype=torch.float64),
        ref_weight=torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64),
    )
    assert stats.logps.item() == pytest.approx(math.log(0.2))
    assert stats.entropy.item() == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert stats.ref_logps.item() == pytest.approx(math.log(0.9))
    assert stats.hellinger_sq.item() == pytest.approx(1 - math.sqrt(0.08) - math.sqrt(0.18))


@pytest.mark.parametrize("impl", ["reference", "streamed"])
def test_scale_softcap_and_temperature_by_hand(impl):
    # (x = 3 + 1) * .5 = 2; 2 tanh(2 / 2) = 2 * .7616; / .5 = 3.0464 -> p = 1 / (1 + e^-3.0464); the other logit is 0.
    stats = lm_head_stats(
        torch.tensor([[3.0]]),
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([0]),
        bias=torch.tensor([1.0, 0.0]),
        logit_scale=0.5,
        softcap=2.0,
        temperature=0.5,
        impl=impl,
    )
    assert stats.logps.item() == pytest.approx(-math.log1p(math.exp(-4 * math.tanh(1.0))), abs=1e-6)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5, 4.0, 0.8)], ids=["plain", "all"])
def test_agrees_with_distributions_and_the_core(transform):
    case = make_case(7, 5, 60, bias=True)
    stats = run_reference(case, transform)

    def logits(head):
        x = torch.nn.functional.linear(head.hidden, head.weight, head.bias) * transform.logit_scale
        if transform.softcap is not None:
            x = transform.softcap * (x / transform.softcap).tanh()
        return x / transform.temperature

    z, y = logits(case.policy), logits(case.ref)
    torch.testing.assert_close(stats.logps, torch.distributions.Categorical(logits=z).log_prob(case.targets))
    torch.testing.assert_close(stats.ref_logps, torch.distributions.Categorical(logits=y).log_prob(case.targets))
    torch.testing.assert_close(stats.entropy, torch.distributions.Categorical(logits=z).entropy())
    torch.testing.assert_close(stats.entropy, per_token_entropy(z))
    torch.testing.assert_close(stats.hellinger_sq, 1 - (z.softmax(-1) * y.softmax(-1)).sqrt().sum(-1))
    torch.testing.assert_close(stats.hellinger_sq, per_token_hellinger_sq(z, y))


def test_masked_tokens_leave_gradients_finite():
    case = make_case(5, 4, 20, bias=True).to(torch.float64, grad=True)
    with torch.no_grad():
        case.policy.bias[3:9] = -math.inf
    stats = run_reference(case._replace(targets=torch.zeros(5, dtype=torch.int64)))
    (stats.logps.sum() + stats.entropy.sum()).backward()
    assert all(x.grad.isfinite().all() for x in case.policy)
    assert not case.policy.bias.grad[3:9].any()
