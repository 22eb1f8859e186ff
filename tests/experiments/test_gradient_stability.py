import math
from itertools import pairwise

import pytest
import torch

from experiments.gradient_stability import theory, training
from experiments.gradient_stability.__main__ import REDUCED, grid
from experiments.gradient_stability.theory import TERMS, largest_weight, norms
from experiments.harness import Cell


def disagreeing_pair(seed, vocab_size=37, spread=6.0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(vocab_size, generator=generator, dtype=torch.float64) * spread  # noqa: E731
    return draw(), draw().log_softmax(-1)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("token", [0, 36])
def test_the_formula_is_what_autograd_finds(name, seed, token):
    logits, ref_logps = disagreeing_pair(seed)
    logits.requires_grad_(True)
    TERMS[name].loss(logits, ref_logps, token).backward()
    closed_form = TERMS[name].gradient(logits.detach().softmax(-1), ref_logps.exp(), token)
    torch.testing.assert_close(closed_form, logits.grad, rtol=1e-9, atol=1e-12)


def test_k2_in_the_loss_has_the_gradient_of_k1_in_the_reward():
    logits, ref_logps = disagreeing_pair(0)
    logits.requires_grad_(True)
    theory._k2(logits, ref_logps, 3).backward()
    closed_form = TERMS["k1_in_reward"].gradient(logits.detach().softmax(-1), ref_logps.exp(), 3)
    torch.testing.assert_close(closed_form, logits.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["surrogate", "forward_kl", "hellinger"])
def test_what_is_called_bounded_is(name):
    bound = {"surrogate": math.sqrt(2), "forward_kl": math.sqrt(2), "hellinger": 1.0}[name]
    for seed in range(50):
        logits, ref_logps = disagreeing_pair(seed, spread=30.0)
        assert TERMS[name].gradient(logits.softmax(-1), ref_logps.exp(), 0).norm() <= bound + 1e-12


def test_as_the_reference_vanishes_k3_saturates_and_the_others_grow_by_the_logarithm():
    by_decades = [norms(0.25, 10.0**-k) for k in range(4, 17)]
    # |e_y - p|, with p_y = 1/4 and the rest even over 99 tokens: sqrt(9/16 + 9/16/99)
    length = 0.75 * math.sqrt(1 + 1 / 99)
    assert by_decades[-1]["k3"] == pytest.approx(length, rel=1e-6)
    for before, after in pairwise(by_decades):
        assert after["k3"] < math.sqrt(2)
        assert after["k1_in_reward"] - before["k1_in_reward"] == pytest.approx(math.log(10) * length, rel=1e-6)
        assert 0 < after["reverse_kl"] - before["reverse_kl"] < math.log(10)
        assert after["dgpo_tau0.5"] <= math.sqrt(2) * largest_weight(1000, 0.5)


def test_as_the_policy_vanishes_k3_grows_like_the_ratio():
    for k in range(3, 8):
        assert norms(10.0 ** -(k + 1), 0.25)["k3"] / norms(10.0**-k, 0.25)["k3"] == pytest.approx(10, rel=0.02)
        assert norms(10.0 ** -(k + 1), 0.25)["dgpo_tau0.5"] < math.sqrt(2) * largest_weight(1000, 0.5)


@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("num_tokens", [1, 2, 30, 1000])
def test_no_weight_is_above_the_largest_and_one_reaches_it(tau, num_tokens):
    from dgpo.core import redistribution_weights

    mask = torch.ones(1, num_tokens, dtype=torch.bool)
    scores = torch.zeros(1, num_tokens, dtype=torch.float64)
    scores[0, 0] = 1.0
    bound = largest_weight(num_tokens, tau)
    assert redistribution_weights(scores, mask, tau=tau).max().item() == pytest.approx(bound)
    assert bound <= min(num_tokens, math.exp(1 / tau)) * (1 + 1e-12)
    torch.manual_seed(0)
    drawn = redistribution_weights(torch.rand(64, num_tokens, dtype=torch.float64), mask.expand(64, -1), tau=tau)
    assert drawn.max().item() <= bound * (1 + 1e-12)


@pytest.fixture(scope="module")
def small_batch(tmp_path_factory):
    """One batch of a hardly trained model, its reference pushed away so that no penalty is zero."""
    torch.manual_seed(0)
    logits = torch.randn(8, 5, 7, dtype=torch.float64, requires_grad=True)
    ref_logits = torch.randn(8, 5, 7, dtype=torch.float64)
    ids = torch.randint(7, (8, 5))
    mask = torch.arange(5) < torch.tensor([5, 5, 4, 3, 5, 2, 5, 1])[:, None]
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0], dtype=torch.float64)
    from dgpo.core import group_advantages

    logps = training._picked(logits, ids)
    return training.Batch(
        logits,
        ref_logits,
        logps,
        logps.detach(),
        training._picked(ref_logits, ids),
        mask,
        rewards,
        group_advantages(rewards, 4),
        4,
    ), ids


@pytest.mark.parametrize(
    ("rule", "term"), [("k3", "k3"), ("k1-in-reward", "k1_in_reward"), ("reverse-kl", "reverse_kl")]
)
def test_a_rule_adds_the_gradient_of_its_term(small_batch, rule, term):
    batch, ids = small_batch
    (plain,) = torch.autograd.grad(training.RULES["grpo"][1](batch), batch.logits, retain_graph=True)
    (whole,) = torch.autograd.grad(training.RULES[rule][1](batch), batch.logits, retain_graph=True)
    p, q = batch.logits.detach().softmax(-1), batch.ref_logits.softmax(-1)
    expected = torch.zeros_like(p)
    for row, position in batch.mask.nonzero().tolist():
        expected[row, position] = TERMS[term].gradient(p[row, position], q[row, position], ids[row, position].item())
    torch.testing.assert_close(whole - plain, training.BETA * expected / batch.mask.sum(), rtol=1e-8, atol=1e-12)


def test_dgpo_with_the_reference_equal_to_the_policy_is_grpo(small_batch):
    batch, _ = small_batch
    from dataclasses import replace

    same = replace(batch, ref_logits=batch.logits.detach())
    (plain,) = torch.autograd.grad(training.RULES["grpo"][1](same), same.logits, retain_graph=True)
    (ours,) = torch.autograd.grad(training.RULES["dgpo"][1](same), same.logits, retain_graph=True)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("side", ["reference", "policy", "stale"])
def test_a_reduced_run_gives_the_word_the_probability_asked_for(side, tmp_path, monkeypatch):
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path))
    # Enough of a warm-up that the model says a style word at decoys with about equal chances.
    overrides = REDUCED | {"warm_up_steps": 120, "num_forks": 1, "steps": 1}
    cell = Cell(f"{side}=1e-6", "dgpo", 0)
    (result,) = training.run([cell], [training.settings_of(cell, overrides)])
    assert 1e-7 < result["measured"] < 1e-5
    assert len(result["grad_norm"]) == len(result["reward"]) == 1


def test_the_grid_holds_each_cell_once_and_every_rule():
    cells = list(grid([0, 1], reduced=False))
    assert len(cells) == len(set(cells))
    assert {cell.rule for cell in cells} == set(training.RULES)
    assert {cell.variant.partition("=")[0] for cell in cells} == {"reference", "policy", "stale"}
