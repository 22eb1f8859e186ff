"""The running state: merged in any order it is the same, an empty piece changes nothing, finalize is by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.lm_head.running_stats import (
    PairState,
    PolicyState,
    empty_state,
    finalize,
    merge_pair,
    merge_policy,
    pair_state,
    policy_state,
    reduce_pair,
    reduce_policy,
)


def pair(z: torch.Tensor, y: torch.Tensor, factor: float = 1.0) -> PairState:
    z, y = z.clone(), y.clone()
    out = torch.empty(6, z.shape[0], dtype=z.dtype)
    reduce_pair(z, y, factor, torch.empty_like(z), out)
    return pair_state(out)


def policy(z: torch.Tensor, factor: float = 1.0) -> PolicyState:
    z = z.clone()
    out = torch.empty(3, z.shape[0], dtype=z.dtype)
    reduce_policy(z, factor, torch.empty_like(z), out)
    return policy_state(out)


def test_state_of_two_tokens_by_hand():
    z, y = torch.tensor([[math.log(4.0), 0.0]]).double(), torch.tensor([[0.0, math.log(9.0)]]).double()
    state = pair(z, y)
    assert state.mz.item() == pytest.approx(math.log(4))
    assert state.sz.item() == pytest.approx(1.25)  # 1 + 1/4
    assert state.tz.item() == pytest.approx(-0.25 * math.log(4))  # 1/4 * log(1/4)
    assert state.my.item() == pytest.approx(math.log(9))
    assert state.sy.item() == pytest.approx(10 / 9)  # 1/9 + 1
    # a = (1, 1/2), b = (1/3, 1): |a||b| = sqrt(5/4 * 10/9) = 5 sqrt(2)/6, a.b = 1/3 + 1/2 = 5/6
    assert state.D.item() == pytest.approx(5 / 6 * (math.sqrt(2) - 1))
    stats = finalize(state, z[:, 1], y[:, 1], 2)
    assert stats.logps.item() == pytest.approx(math.log(0.2))
    assert stats.ref_logps.item() == pytest.approx(math.log(0.9))
    assert stats.hellinger_sq.item() == pytest.approx(1 - 1 / math.sqrt(2))  # 1 - (5/6) / (5 sqrt(2)/6)
    assert stats.entropy.item() == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))


def test_merging_single_tokens_by_hand():
    """Each piece alone has D = 0; the distance comes from Lagrange's term only."""
    z, y = torch.tensor([[math.log(4.0), 0.0]]).double(), torch.tensor([[0.0, math.log(9.0)]]).double()
    parts = [pair(z[:, i : i + 1], y[:, i : i + 1]) for i in range(2)]
    assert [p.D.item() for p in parts] == [0.0, 0.0]
    # a1 = 1, a2 = 1/2, b1 = 1/3, b2 = 1: (1 * 1 - 1/2 * 1/3)^2 / (5 sqrt(2)/6 + 5/6) = 5/6 (sqrt(2) - 1)
    assert merge_pair(*parts).D.item() == pytest.approx(5 / 6 * (math.sqrt(2) - 1))


def test_rounding_takes_an_entropy_out_of_its_range_and_finalize_brings_it_back():
    """A certain token whose sum came out a rounding above 0, and four equal ones a rounding below."""
    state = PolicyState(torch.zeros(2), torch.tensor([1.0, 4.0]), torch.tensor([1e-7, -1e-5]))
    assert finalize(state, torch.zeros(2), None, 4).entropy.tolist() == [0.0, pytest.approx(math.log(4), rel=2e-7)]


def test_a_factor_is_a_factor():
    z, y = torch.randn(3, 7).double(), torch.randn(3, 7).double()
    for mine, theirs in zip(pair(z, y, 0.3), pair(0.3 * z, 0.3 * y), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(policy(z, 0.3), policy(0.3 * z), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_policy_alone_is_the_policy_of_the_pair():
    z, y = torch.randn(4, 9), torch.randn(4, 9)
    for mine, theirs in zip(policy(z), pair(z, y)[:3], strict=True):
        assert torch.equal(mine, theirs)
    a, b = pair(z[:, :4], y[:, :4]), pair(z[:, 4:], y[:, 4:])
    for mine, theirs in zip(merge_policy(policy(z[:, :4]), policy(z[:, 4:])), merge_pair(a, b)[:3], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_pair", [True, False])
def test_an_empty_piece_changes_nothing(is_pair):
    z, y = torch.randn(4, 9) * 1e3, torch.randn(4, 9)
    masked = torch.full((4, 3), -math.inf)
    state, merge = (pair(z, y), merge_pair) if is_pair else (policy(z), merge_policy)
    nothing = [
        empty_state(4, pair=is_pair, dtype=torch.float32, device=z.device),
        pair(masked, masked) if is_pair else policy(masked),
    ]
    for empty in nothing:
        assert not empty.sz.any()
        for merged in (merge(state, empty), merge(empty, state)):
            for mine, theirs in zip(merged, state, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=3e-7, atol=0)
        for x in merge(empty, empty):
            assert not x.isnan().any()


values = st.floats(-40, 40, width=32) | st.sampled_from([-math.inf, 1e4, -1e4])


@given(
    st.integers(1, 16).flatmap(
        lambda v: st.tuples(
            st.lists(st.tuples(values, values), min_size=v, max_size=v),
            st.lists(st.integers(0, 3), min_size=v, max_size=v),
            st.permutations(range(4)),
        )
    )
)
def test_neither_the_pieces_nor_their_order_matter(drawn):
    """Any partition of the vocabulary into up to four pieces, merged left to right or as a tree, in any order."""
    pairs, owner, order = drawn
    z, y = torch.tensor([pairs]).unbind(-1)
    if z.isinf().all() or y.isinf().all():
        return
    owner = torch.tensor(owner)
    pieces = [
        pair(z[:, owner == i], y[:, owner == i])
        if (owner == i).any()
        else empty_state(1, pair=True, dtype=torch.float32, device=z.device)
        for i in order
    ]
    left = merge_pair(merge_pair(merge_pair(pieces[0], pieces[1]), pieces[2]), pieces[3])
    tree = merge_pair(merge_pair(pieces[3], pieces[1]), merge_pair(pieces[0], pieces[2]))
    whole = finalize(pair(z, y), z[:, 0], y[:, 0], z.shape[1])
    for merged in (left, tree):
        assert (merged.D >= 0).all()
        stats = finalize(merged, z[:, 0], y[:, 0], z.shape[1])
        for mine, theirs in zip(stats, whole, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)


@given(st.lists(values, min_size=1, max_size=16), st.integers(1, 6))
def test_equal_rows_are_exactly_0_apart_through_any_merge(row, width):
    z = torch.tensor([row])
    parts = [pair(x, x) for x in z.split(width, dim=1)]
    state = parts[0]
    for part in parts[1:]:
        state = merge_pair(state, part)
    assert state.D.item() == 0.0
