"""Heads split over 2 and 3 gloo ranks are the whole head; what one rank was called with wrongly, every rank refuses."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from lm_head_cases import make_case, relative_error, run_reference, run_shards
from ranks import run_cases

from dgpo.core import redistribution_weights
from dgpo.lm_head import VocabParallel, lm_head_stats
from dgpo.lm_head.types import LogitTransform
from process_groups import run_forked

# What no rounding of a result of this dtype can go below, with room for a few roundings of sums.
FLOOR = {"fp64": 5e-15, "fp32": 2e-6, "bf16": 2**-8, "fp16": 2**-11}


@pytest.fixture(scope="module", params=[2, 3], ids=["two ranks", "three ranks"])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_forked(partial(run_cases, folder), ranks=request.param)
    return [json.loads((folder / f"{request.param}-{rank}.json").read_text()) for rank in range(request.param)]


def test_every_rank_has_the_statistics_and_gradients_of_the_whole_head(ranks):
    """Against float64, no worse than full logits of the same dtype, of which 16 bits round the same products."""
    compared = 0
    for rank in ranks:
        assert len(rank["heads"]) == 24
        for case, errors in rank["heads"].items():
            floor = FLOOR[case.rsplit(" | ", 1)[1]]
            for name, (ours, dense) in errors.items():
                if name == "ranks differ":
                    assert ours == 0, case
                    continue
                assert ours <= max(3 * dense, floor), (case, name)
                compared += 1
    assert compared > 120 * len(ranks)


def test_equal_models_no_tokens_and_unreduced_gradients(ranks):
    for rank in ranks:
        assert rank["extras"]["equal models"] == [0.0, True]
        assert rank["extras"]["no tokens"] == [[0], 0.0]
        assert rank["extras"]["unreduced"] <= 1e-5


def test_what_one_rank_cannot_do_all_ranks_refuse(ranks):
    for index, rank in enumerate(ranks):
        refused = rank["extras"]["refused"]
        assert "number of tokens N must be the same on every rank" in refused["tokens"]
        assert "rank 0: 9, rank 1: 4" in refused["tokens"]
        assert "checksum of targets must be the same" in refused["targets"]
        assert "temperature must be the same" in refused["temperature"]
        assert ("temperature must be a finite" if index == 1 else "rank 1 of the process group") in refused["own"]
        assert ("targets must be int64" if index == 1 else "rank 1 of the process group") in refused["dtype"]
        assert "outside the vocabulary [0, 301)" in refused["range"]
        assert "no rows on any rank" in refused["nothing"]
        assert "impl='reference'" in refused["reference impl"]


def test_what_one_rank_stumbles_over_stops_all_ranks(ranks):
    """Not refusals but errors of other kinds, which only that rank meets: the others must not wait for it."""
    for index, rank in enumerate(ranks):
        heads, weights = rank["extras"]["refused"], rank["redistribution"]["refused"]
        for case in ("no number", "no hidden", "no weight", "no targets"):
            own = "ValueError: temperature must be" if case == "no number" else "AttributeError: "
            theirs = "ValueError: rank 1 of the process group refused its arguments"
            assert heads[case].startswith(own if index == 1 else theirs)
        for case in ("no number", "no mask", "no scores"):
            own = "ValueError: tau must be" if case == "no number" else "AttributeError: "
            theirs = f"ValueError: rank {len(ranks) - 1} of the process group refused its arguments"
            assert weights[case].startswith(own if index == len(ranks) - 1 else theirs)


def test_weights_of_split_completions_are_those_of_whole_ones(ranks):
    for index, rank in enumerate(ranks):
        weights, last = rank["redistribution"], index == len(ranks) - 1
        assert weights["equal scores give 1"]
        assert weights["torch.float64"] <= 1e-14
        assert weights["torch.float32"] <= 2e-6
        assert weights["torch.bfloat16"] <= 2e-6
        assert "number of completions B must be the same" in weights["refused"]["rows"]
        assert "tau must be the same" in weights["refused"]["tau"]
        assert ("tau must be a finite" if last else "refused its arguments") in weights["refused"]["own"]


def test_no_process_group_is_an_error_with_a_way_out():
    with pytest.raises(ValueError, match=r"init_process_group.*leave vocab_parallel out for a whole head"):
        VocabParallel(dist.group.WORLD)


def test_a_process_group_that_was_destroyed_is_an_error_with_a_way_out(group):
    past = group
    dist.destroy_process_group()
    with pytest.raises(ValueError, match=r"init_process_group.*leave vocab_parallel out for a whole head"):
        lm_head_stats(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([0]), vocab_parallel=VocabParallel(past))
    with pytest.raises(ValueError, match=r"init_process_group.*leave process_group out for whole completions"):
        redistribution_weights(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), process_group=past)


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_rank_is_the_unsplit_function_bit_for_bit(group, dtype):
    case = make_case(31, 24, 500).to(dtype, grad=True)
    again = make_case(31, 24, 500).to(dtype, grad=True)
    results = []
    for split, one in ((None, case), (VocabParallel(group), again)):
        hidden, weight, _ = one.policy
        ref = {"ref_hidden": one.ref.hidden, "ref_weight": one.ref.weight}
        stats = lm_head_stats(hidden, weight, one.targets, **ref, softcap=9.0, vocab_parallel=split)
        (stats.logps.sum() + 0.1 * stats.entropy.square().sum()).backward()
        results.append([*(x.detach() for x in stats), hidden.grad, weight.grad])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@given(st.lists(st.integers(0, 40), min_size=0, max_size=4), st.integers(0, 3), st.booleans())
def test_neither_number_nor_size_of_the_shards_matters(cuts, seed, capped):
    """Any split of the vocabulary, merged without processes: empty shards, single tokens, targets anywhere."""
    transform = LogitTransform(0.5, 6.0, 0.8) if capped else LogitTransform()
    case = make_case(5, 8, 40, bias=True, seed=seed)
    u = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))
    exact = case.to(torch.float64, grad=True)
    truth = run_reference(exact, transform)
    loss = (truth.logps * u[0]).sum() + (truth.entropy * u[1]).sum()
    true_grads = torch.autograd.grad(loss, exact.policy)
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        stats, grads = run_shards(case.to(dtype), (*sorted(cuts), 40), tuple(u.to(dtype)), transform)
        for mine, true in zip((*stats, *grads), (*truth, *true_grads), strict=True):
            assert relative_error(mine, true.detach()) <= bound


def test_the_example_of_the_documentation_runs():
    """docs/parallelism.md shows a tensor- and sequence-parallel step; each of its blocks is run as it stands."""
    text = Path(__file__).parents[2].joinpath("docs", "parallelism.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 1
    run_forked(partial(exec, blocks[0], {}), ranks=None)
