"""`lm_head_stats` as its callers meet it: defaults, aliased heads, autocast, choice of implementation, bad input."""

import jaxtyping
import pytest
import torch
from lm_head_cases import make_case, relative_error

import dgpo
from dgpo.lm_head import LMHeadStats, lm_head_stats, stats
from dgpo.lm_head.arguments import check_targets
from dgpo.lm_head.types import Head


def arguments(dtype=torch.float32, **changes):
    """Keyword arguments of a valid call with 6 tokens, 8 hidden units and a vocabulary of 50; changed where asked."""
    case = make_case(6, 8, 50, bias=True).to(dtype)
    (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias) = case.policy, case.ref
    given = {"hidden": hidden, "weight": weight, "bias": bias, "targets": case.targets}
    given |= {"ref_hidden": ref_hidden, "ref_weight": ref_weight, "ref_bias": ref_bias}
    return given | changes


def test_the_package_exports_it():
    assert dgpo.lm_head_stats is lm_head_stats
    assert dgpo.LMHeadStats is LMHeadStats


def test_without_a_reference_two_statistics_are_none():
    out = lm_head_stats(**arguments(ref_hidden=None, ref_weight=None, ref_bias=None))
    assert isinstance(out, LMHeadStats)
    assert out.hellinger_sq is None
    assert out.ref_logps is None
    paired = lm_head_stats(**arguments())
    assert torch.equal(out.logps, paired.logps)
    assert torch.equal(out.entropy, paired.entropy)


@pytest.mark.parametrize("impl", ["streamed", "reference"])
def test_an_aliased_reference_uses_weight_and_bias_of_the_policy(impl):
    given = arguments(impl=impl)
    given["weight"].requires_grad_()
    aliased = lm_head_stats(**given | {"ref_weight": None, "ref_bias": None})
    spelled = lm_head_stats(**given | {"ref_weight": given["weight"], "ref_bias": given["bias"]})
    cloned = lm_head_stats(**given | {"ref_weight": given["weight"].detach().clone(), "ref_bias": given["bias"]})
    assert aliased.hellinger_sq.min() > 0
    for other in (spelled, cloned):
        for mine, theirs in zip(aliased, other, strict=True):
            assert torch.equal(mine, theirs)
    grads = [torch.autograd.grad(x.logps.sum(), given["weight"])[0] for x in (aliased, cloned)]
    assert torch.equal(*grads)  # the reference's use of the head adds nothing to its gradient


def test_auto_is_streamed_and_reference_for_float64(monkeypatch):
    called = []
    for name in ("reference", "streamed"):
        compute = getattr(stats, f"{name}_stats")
        spy = lambda *a, n=name, c=compute, **k: called.append(n) or c(*a, **k)  # noqa: E731
        monkeypatch.setattr(stats, f"{name}_stats", spy)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        out = lm_head_stats(**arguments(dtype))
        assert all(x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for x in out)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the projection no longer runs in float64
        lm_head_stats(**arguments(torch.float64))
    assert called == ["streamed", "streamed", "reference", "streamed"]


@pytest.mark.parametrize("impl", ["streamed", "reference"])
def test_autocast_projects_in_its_dtype_and_keeps_statistics_in_fp32(impl):
    given = arguments(impl=impl)
    leaves = [given[k].requires_grad_() for k in ("hidden", "weight", "bias")]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lm_head_stats(**given)
        grads = torch.autograd.grad(inside.logps.sum() + inside.entropy.sum(), leaves)
        again = torch.autograd.grad(lm_head_stats(**given).entropy.sum(), leaves[0])[0]
    rounded = {
        k: v.detach().bfloat16() if k in ("hidden", "weight", "ref_hidden", "ref_weight") else v
        for k, v in given.items()
    }
    outside = lm_head_stats(**rounded)
    for mine, theirs in zip(inside, outside, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)
    assert all(g.dtype == torch.float32 for g in grads)
    assert again.isfinite().all()
    # Leaving autocast before the backward pass changes nothing: it runs in the dtype of its forward pass.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lm_head_stats(**given)
    later = torch.autograd.grad(out.logps.sum() + out.entropy.sum(), leaves)
    for mine, theirs in zip(later, grads, strict=True):
        assert relative_error(mine, theirs.double()) <= 1e-6


def test_gradients_flow_through_a_tied_head():
    """Embedding and head are one tensor: both uses add to its gradient."""
    given = arguments(ref_hidden=None, ref_weight=None, ref_bias=None)
    tied = given["weight"].double().requires_grad_()
    embedded = tied[given["targets"]]
    grads = []
    for impl, dtype in (("reference", torch.float64), ("streamed", torch.float32)):
        out = lm_head_stats(embedded.to(dtype), tied.to(dtype), given["targets"], impl=impl)
        grads.append(torch.autograd.grad(out.logps.sum(), tied, retain_graph=True)[0])
    assert relative_error(grads[1], grads[0]) <= 1e-5


BAD = {
    "vocabulary": (
        {"ref_weight": torch.zeros(49, 8), "ref_bias": None},
        "vocabulary sizes differ: policy 50, reference 49.*same tokenizer",
    ),
    "ref hidden size": ({"ref_hidden": torch.zeros(6, 7)}, "ref_hidden has hidden size 7 .* 8"),
    "aliased hidden size": (
        {"ref_hidden": torch.zeros(6, 7), "ref_weight": None, "ref_bias": None},
        "hidden size 7.*needs its own ref_weight",
    ),
    "hidden size": ({"hidden": torch.zeros(6, 9)}, "hidden has hidden size 9 but its head has 8"),
    "rows": ({"ref_hidden": torch.zeros(5, 8)}, "ref_hidden has 5 rows but hidden has 6"),
    "not flattened": ({"hidden": torch.zeros(2, 3, 8)}, r"hidden must have shape \(N, H\), got \(2, 3, 8\).*flatten"),
    "bias": ({"bias": torch.zeros(49)}, "bias has 49 entries but weight has 50"),
    "ref bias": ({"ref_bias": torch.zeros(51)}, "ref_bias has 51 entries but ref_weight has 50"),
    "ref bias alone": ({"ref_weight": None}, "ref_bias was passed without ref_weight"),
    "no ref hidden": ({"ref_hidden": None}, "without ref_hidden"),
    "quantized": ({"weight": torch.zeros(50, 8, dtype=torch.int8)}, "weight must be a float tensor, got torch.int8"),
    "empty vocabulary": (
        {"weight": torch.zeros(0, 8), "bias": None, "ref_hidden": None, "ref_weight": None, "ref_bias": None},
        "no rows",
    ),
    "targets dtype": ({"targets": torch.zeros(6, dtype=torch.int32)}, "targets must be int64 .* torch.int32"),
    "targets shape": ({"targets": torch.zeros(6, 1, dtype=torch.int64)}, r"shape \(6,\).*\(6, 1\)"),
    "targets below": ({"targets": torch.tensor([0, 1, -100, 0, 0, 0])}, r"contains -100, outside .*\[0, 50\).*mask"),
    "targets above": ({"targets": torch.tensor([0, 1, 50, 0, 0, 0])}, r"contains 50, outside .*\[0, 50\)"),
    "temperature 0": ({"temperature": 0.0}, "temperature must be .* above 0, got 0.0.*greedy"),
    "temperature nan": ({"temperature": float("nan")}, "temperature .* got nan"),
    "softcap": ({"softcap": -1.0}, "softcap must be .* above 0, got -1.0.*None"),
    "scale": ({"logit_scale": 0.0}, "logit_scale must be .* above 0, got 0.0"),
    "impl": ({"impl": "cuda"}, "impl='cuda' is not known"),
    "device": ({"weight": torch.zeros(50, 8, device="meta")}, "weight is on meta but hidden is on cpu"),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        lm_head_stats(**arguments(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": torch.zeros(6, 1, dtype=torch.int64)},
        {"ref_hidden": torch.zeros(5, 8)},
        {"bias": torch.zeros(50, 1)},
        {"targets": torch.zeros(6)},
    ],
    ids=["targets (N, 1)", "rows", "bias (V, 1)", "float targets"],
)
def test_shape_annotations_are_checked(changes):
    with pytest.raises(jaxtyping.TypeCheckError):
        lm_head_stats(**arguments(**changes))


def test_an_accelerator_never_waits_for_the_range_check(monkeypatch):
    """On anything but the CPU the targets' values are not looked at; meta tensors have none to look at."""
    policy = Head(torch.zeros(2, 3, device="meta"), torch.zeros(5, 3, device="meta"), None)
    check_targets(torch.zeros(2, dtype=torch.int64, device="meta"), policy)


def test_a_target_outside_that_was_not_checked_is_nan():
    from dgpo.lm_head.streamed import streamed_stats
    from dgpo.lm_head.types import Head, LogitTransform

    head = Head(torch.randn(2, 3), torch.randn(5, 3), None)
    out = streamed_stats(head, None, torch.tensor([5, 1]), LogitTransform(), torch.float32)
    assert out.logps.isnan().tolist() == [True, False]
    assert out.entropy.isfinite().all()
