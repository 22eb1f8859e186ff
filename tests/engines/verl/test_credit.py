"""A batch of verl's becomes statistics, and those the credit of each token."""

import pytest
import torch
from batches import KEYS, batch, nested, sequences, stats_of
from support import HERE

import verl  # noqa: F401  isort: skip
from dgpo.core import assign_credit
from dgpo.engines.verl.credit import check_finite, token_stats
from dgpo.errors import TrainingError
from dgpo.rules import resolve

SIGNED = f"{HERE / 'credit_rules.py'}:signed_share"


def test_fields_of_verl_become_those_of_the_core():
    stats = stats_of(batch())
    assert stats.completion_mask.tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, True, True],
        [False, False, False, False],
    ]
    assert stats.advantages.tolist() == [1.0, -0.5, -1.0, 0.0]
    assert stats.rewards[:3].tolist() == [1.0, 0.5, 0.0]
    assert stats.rewards[3].isnan()  # nothing was scored
    assert stats.group.tolist() == [0, 1, 0, 2]  # by the uid in the key
    torch.testing.assert_close(stats.hellinger_sq, stats.entropy)  # shifted by the prompt
    assert stats.hellinger_sq[2].tolist() == pytest.approx([0.1, 0.9, 0.2, 0.2])
    assert stats.ref_logps[0].tolist() == [-1.5, -1.5, -1.5, 0.0]
    assert torch.equal(stats.logps, stats.old_logps)


def test_without_a_reference_its_statistics_and_metrics_are_left_out():
    data = batch()
    del data["hellinger_sq"], data["ref_log_probs"]
    stats = stats_of(data)
    assert (stats.hellinger_sq, stats.ref_logps) == (None, None)
    credit = assign_credit(stats, resolve("even"))
    assert torch.equal(credit.token_advantages, stats.advantages[:, None] * stats.completion_mask)
    assert not credit.totals.has_reference
    assert credit.totals.metrics().keys() == {"dgpo/weight/std", "dgpo/weight/max", "dgpo/effective_share"}


@pytest.mark.parametrize(
    "rule", ["dgpo", "gtpo", "top_entropy", "effective_share", f"{HERE / 'credit_rules.py'}:signed_share"]
)
def test_rows_of_padding_and_empty_masks_change_nothing(rule):
    """Rules that compare completions or tokens of the batch, and a signed one."""
    data, keys = batch(), KEYS
    credit = assign_credit(stats_of(data), resolve(rule))
    assert credit.token_advantages[3].tolist() == [0.0] * 4
    assert credit.token_advantages[2, 1] == 0
    real = token_stats({name: nested(values.unbind()[:3]) for name, values in data.items()}, keys[:3], vocab_size=8)
    without = assign_credit(real, resolve(rule))
    assert torch.equal(credit.token_advantages[:3], without.token_advantages)
    assert credit.totals.metrics() == without.totals.metrics()
    assert credit.totals.stats().num_completions == 3


def test_a_rule_that_compares_the_completions_of_a_prompt_goes_by_its_uid():
    """gtpo shares out the entropy at a position over the completions of a prompt with the same sign of advantage."""
    data = batch(advantages=nested([[1.0] * 3, [1.0] * 2, [1.0, 0.0, 1.0, 1.0], [0.0]]))
    together, apart = (
        assign_credit(token_stats(data, keys, vocab_size=8), resolve("gtpo")).weights
        for keys in (KEYS, ("b_0_0", "a_0_0", "c_0_0", "pad_0_0"))
    )
    assert torch.equal(together[1], apart[1])  # alone either way
    assert not torch.equal(together[0], apart[0])


def test_a_signed_rule_gives_the_token_advantages_itself():
    credit = assign_credit(stats_of(batch()), resolve(SIGNED))
    assert credit.weights is None
    assert credit.token_advantages.tolist() == [
        [-1.0, 2.0, 2.0, 0.0],
        [-1.0, -1.0, 0.0, 0.0],
        [-1.0, 0.0, -2.0, -2.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
    assert "dgpo/token_advantage/mean" in credit.totals.metrics()


def test_rubbish_off_the_mask_changes_nothing():
    rubbish = [[0.1, 0.2, 0.3], [0.4, 0.5], [0.1, torch.nan, 0.2, 0.2], [-torch.inf]]
    clean, dirty = (
        stats_of(data) for data in (batch(), batch(hellinger_sq=sequences(rubbish), entropy=nested(rubbish)))
    )
    check_finite(dirty)
    expected, credit = (assign_credit(stats, resolve("dgpo")) for stats in (clean, dirty))
    assert torch.equal(credit.token_advantages, expected.token_advantages)
    assert credit.totals.metrics() == expected.totals.metrics()


def test_statistics_that_are_not_finite_stop_the_run_before_the_update():
    stats = stats_of(batch(entropy=nested([[1.0, torch.nan, 1.0], [1.0, 1.0], [1.0] * 4, [1.0]])))
    with pytest.raises(TrainingError, match=r"entropy of 1 trained tokens is not finite"):
        check_finite(stats)
    stats = stats_of(batch(ref_log_probs=sequences([[torch.inf] * 3, [1.0] * 2, [1.0] * 4, [1.0]])))
    with pytest.raises(TrainingError, match=r"ref_log_probs of 3 trained tokens is not finite"):
        check_finite(stats)
