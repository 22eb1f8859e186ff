"""Credit of a batch: by hand, against the paper's functions, with rubbish off the mask, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgpo.core import (
    REFERENCE_STATS,
    CreditTotals,
    RuleTraits,
    TokenStats,
    assign_credit,
    credit_rule,
    gated_scores,
    redistribute,
    redistribution_weights,
    traits_of,
)
from dgpo.rules import BUILT_IN, resolve


def make_stats(seed=0, batch=4, length=6, *, rubbish=0.0, **changes):
    random = torch.Generator().manual_seed(seed)

    def values():
        return torch.rand(batch, length, generator=random)

    mask = values() < 0.7
    mask[0] = True
    fields = {"entropy": values() * 2, "logps": -values(), "old_logps": -values(), "ref_logps": -values()}
    fields["hellinger_sq"] = values() ** 2
    fields |= {"hindsight_hellinger_sq": values() ** 2, "hindsight_log_ratio": values() - 0.5}
    return TokenStats(
        completion_mask=mask,
        advantages=torch.randn(batch, generator=random),
        vocab_size=9,
        rewards=torch.rand(batch, generator=random),
        group=torch.arange(batch) // 2,
        **{name: torch.where(mask, x, rubbish) if rubbish else x for name, x in fields.items()},
    )._replace(**changes)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_papers_rule_is_the_papers_functions(seed):
    stats = make_stats(seed)
    credit = assign_credit(stats, resolve("dgpo", tau=0.05, kappa=0.5))
    scores = gated_scores(stats.hellinger_sq, stats.entropy, vocab_size=9, kappa=0.5)
    weights = redistribution_weights(scores, stats.completion_mask, tau=0.05)
    assert torch.equal(credit.weights, weights)
    assert torch.equal(credit.scores, scores)
    assert torch.equal(credit.token_advantages, redistribute(stats.advantages, weights))
    log_ratio = stats.ref_logps - stats.logps
    expected = CreditTotals.of(
        weights, scores, stats.completion_mask, hellinger_sq=stats.hellinger_sq, kl=log_ratio.exp() - log_ratio - 1
    )
    assert credit.totals.mean_kl() == expected.mean_kl()


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), rubbish=st.sampled_from([float("nan"), float("inf"), -1e30]))
def test_rubbish_off_the_mask_changes_nothing(name, seed, rubbish):
    rule = resolve(name)
    clean, dirty = (assign_credit(make_stats(seed, rubbish=value), rule) for value in (0.0, rubbish))
    assert torch.equal(clean.token_advantages, dirty.token_advantages)
    assert torch.equal(clean.totals.sums, dirty.totals.sums)
    assert (dirty.token_advantages[~make_stats(seed).completion_mask] == 0).all()


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_completions_changes_no_credit(name, seed):
    """Rows of a rollout come shuffled."""
    stats, rule = make_stats(seed), resolve(name)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    shuffled = stats._replace(
        **{key: value[order] for key, value in stats._asdict().items() if isinstance(value, torch.Tensor)}
    )
    found = assign_credit(shuffled, rule).token_advantages
    torch.testing.assert_close(found, assign_credit(stats, rule).token_advantages[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, rule in BUILT_IN.items() if traits_of(rule).mean_one and not traits_of(rule).signed]
)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_weights_have_mean_one(name, seed):
    stats = make_stats(seed)
    weights = assign_credit(stats, resolve(name)).weights
    counts = stats.completion_mask.sum(-1)
    torch.testing.assert_close(weights.sum(-1)[counts > 0], counts[counts > 0].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_rule_reads_more_than_it_says(name):
    reads = traits_of(BUILT_IN[name]).reads
    absent = {key: None for key in REFERENCE_STATS if key not in reads}
    stats = make_stats(**absent)
    assert torch.isfinite(assign_credit(stats, resolve(name)).token_advantages).all()
    assert make_stats(group=None) is not None
    if not traits_of(BUILT_IN[name]).whole_groups:
        assign_credit(stats._replace(group=None, rewards=None), resolve(name))


def test_without_a_reference_its_metrics_are_left_out():
    stats = make_stats(hellinger_sq=None, ref_logps=None)
    metrics = assign_credit(stats, resolve("entropy")).totals.metrics()
    assert set(metrics) == {"dgpo/weight/std", "dgpo/weight/max", "dgpo/effective_share"}


def test_metrics_of_weights_of_another_mean():
    stats = make_stats(batch=1, length=4, completion_mask=torch.ones(1, 4, dtype=torch.bool))
    rule = credit_rule(reads=(), mean_one=False)(lambda stats: torch.tensor([[0.0, 0.0, 0.0, 2.0]]))
    totals = assign_credit(stats, rule).totals
    assert totals.metrics()["dgpo/weight/mean"] == 0.5
    assert totals.metrics()["dgpo/weight/std"] == pytest.approx(0.75**0.5)  # about 0.5, and not about 1
    assert totals.metrics()["dgpo/effective_share"] == 0.25


def test_a_signed_rule_gives_token_advantages():
    stats = make_stats(batch=1, length=2, completion_mask=torch.ones(1, 2, dtype=torch.bool))
    rule = credit_rule(reads=(), signed=True)(lambda stats: torch.tensor([[-1.0, 3.0]]))
    credit = assign_credit(stats, rule)
    assert credit.weights is None
    assert credit.token_advantages.tolist() == [[-1.0, 3.0]]
    metrics = credit.totals.metrics()
    assert metrics["dgpo/token_advantage/mean"] == 1
    assert (metrics["dgpo/token_advantage/min"], metrics["dgpo/token_advantage/max"]) == (-1, 3)
    assert metrics["dgpo/effective_share"] == pytest.approx(16 / 10 / 2)  # of the sizes 1 and 3
    assert not credit.totals.stats().inert


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda s: None, r"returned a NoneType"),
        (lambda s: s.completion_mask, r"returned a torch\.bool tensor"),
        (lambda s: torch.ones(4, 1), r"returned shape \(4, 1\) for completions of \(4, 6\)"),
        (lambda s: torch.full((4, 6), torch.nan), r"are not finite"),
        (lambda s: torch.full((4, 6), torch.inf), r"are not finite"),
        (lambda s: torch.full((4, 6), 0.2), r"completion 0 have mean 0\.2 over its 6 trained tokens.*mean_one=False"),
    ],
)
def test_what_a_rule_may_not_return(returned, message):
    def mine(stats):
        return returned(stats)

    with pytest.raises(ValueError, match=message):
        assign_credit(make_stats(), mine)


def test_a_rule_that_reads_what_was_not_computed_is_told_what_to_do():
    def mine(stats):
        return stats.hellinger_sq * 2

    with pytest.raises(ValueError, match=r"mine failed where hellinger_sq.*@credit_rule\(reads"):
        assign_credit(make_stats(hellinger_sq=None), mine)
    with pytest.raises(ValueError, match=r"compares the completions.*group is None"):
        assign_credit(make_stats(group=None), resolve("gtpo"))


def test_faults_of_a_rule_stay_its_own():
    def mine(stats):
        return stats.no_such_field

    with pytest.raises(AttributeError, match="no_such_field"):
        assign_credit(make_stats(), mine)


def test_statistics_that_do_not_fit_the_mask_are_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="entropy"):
        assign_credit(make_stats(entropy=torch.zeros(4, 1)), resolve("even"))
    with pytest.raises(ValueError, match=r"reads='rewards' is not a statistic that costs extra"):
        credit_rule(reads=("rewards",))


def test_traits_of_an_unmarked_function_are_the_pair_pass():
    assert traits_of(lambda stats: stats) == RuleTraits(reads=("hellinger_sq", "ref_logps"))


def test_totals_add_up_over_batches_for_every_kind_of_rule():
    for name in ("dgpo", "even", "top_entropy"):
        rule = resolve(name)
        a, b = (assign_credit(make_stats(seed), rule).totals for seed in (1, 2))
        both = (a + b).metrics()
        assert both.keys() == a.metrics().keys()
        tokens = [t.stats().num_tokens for t in (a, b)]
        assert (a + b).stats().num_tokens == sum(tokens)


def test_a_rule_can_give_columns_for_the_log():
    stats = make_stats(rubbish=float("nan"))
    mask = stats.completion_mask

    @credit_rule(reads=())
    def with_columns(stats):
        ranks = torch.arange(6).expand(4, 6)  # whole numbers are numbers
        return mask.float(), {"surprise": -stats.logps, "rank": ranks}

    credit = assign_credit(stats, with_columns)
    assert torch.equal(credit.weights, mask.float())
    assert credit.columns.keys() == {"surprise", "rank"}
    assert torch.equal(credit.columns["surprise"], torch.where(mask, -stats.logps, 0.0))
    assert credit.columns["rank"][0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert assign_credit(stats, resolve("even")).columns == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": torch.zeros(4, 1)},
            r"Column 'x' of the credit rule .* has shape \(4, 1\); it must be a tensor of \(4, 6\)",
        ),
        ({"x": [0.0]}, "Column 'x' .* has type list"),
        ({"x": torch.full((4, 6), torch.nan)}, "Column 'x' .* is not finite"),
        ({"entropy": torch.zeros(4, 6)}, "Column 'entropy' .* needs another name"),
        ([torch.zeros(4, 6)], r"returned a tuple of \(Tensor, list\)"),
    ],
)
def test_columns_that_cannot_be_logged_are_refused(columns, message):
    stats = make_stats()
    with pytest.raises(ValueError, match=message):
        assign_credit(stats, credit_rule(reads=())(lambda stats: (stats.completion_mask.float(), columns)))


@pytest.mark.parametrize("advantage", [math.nan, math.inf, 3e38])
def test_an_advantage_that_makes_token_advantages_non_finite_is_refused(advantage):
    stats = make_stats(advantages=torch.tensor([advantage, 1.0, 1.0, 1.0]))
    rule = credit_rule(reads=(), mean_one=False)(lambda stats: 2.0 * stats.completion_mask)
    with pytest.raises(ValueError, match=r"token advantages of . trained tokens are not finite"):
        assign_credit(stats, rule)
