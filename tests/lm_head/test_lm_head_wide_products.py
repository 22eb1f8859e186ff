"""The accelerator's way, products of bf16 kept in fp32; on a CPU, which has none, fp32 products play their part."""

import pytest
import torch
from lm_head_cases import gradients, make_case, rms_error, run_reference, run_streamed

from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.workspace import Workspace


@pytest.fixture
def wide_products(monkeypatch):
    """Workspaces that ask for fp32 products, and torch.mm / torch.addmm that give them as CUDA does."""
    plain_init, plain_mm, plain_addmm = Workspace.__init__, torch.mm, torch.addmm
    calls = []

    def init(self, *args):
        plain_init(self, *args)
        self.fp32_output = self.is_low

    def mm(a, b, out_dtype=None, *, out=None):
        if out_dtype is None:
            return plain_mm(a, b, out=out)
        assert a.dtype == b.dtype == torch.bfloat16
        assert out.dtype == out_dtype == torch.float32
        calls.append("mm")
        return plain_mm(a.float(), b.float(), out=out)

    def addmm(total, a, b, out_dtype=None, *, out=None, **options):
        if out_dtype is None:
            return plain_addmm(total, a, b, **options)
        assert a.dtype == b.dtype == torch.bfloat16
        assert out.dtype == total.dtype == out_dtype == torch.float32
        calls.append("addmm")
        return plain_addmm(total, a.float(), b.float(), out=out)

    monkeypatch.setattr(Workspace, "__init__", init)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    return calls


@pytest.mark.parametrize("tiling", [Tiling(41, 1271, 41), Tiling(16, 300, 16)], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32], ids=["bf16 weight", "fp32 weight"])
def test_fp32_products_of_bf16(wide_products, tiling, weight_dtype):
    exact = make_case(41, 401, 1271, bias=True).to(torch.float64, grad=True)
    plain, low = exact.to(torch.bfloat16, grad=True), exact.to(torch.bfloat16, grad=True)
    low = low._replace(policy=low.policy._replace(weight=low.policy.weight.detach().to(weight_dtype).requires_grad_()))
    g, e = torch.randn(41), torch.randn(41)
    truth, torch_out, ours = run_reference(exact), run_reference(plain), run_streamed(low, tiling=tiling)
    # Nothing rounds the logits: bf16 inputs that are exact give the accuracy of fp32.
    assert (ours.logps - truth.logps).abs().max() <= 1e-5
    assert (ours.hellinger_sq - truth.hellinger_sq).abs().max() <= 1e-6
    grads = zip(
        gradients(low, ours, g, e), gradients(plain, torch_out, g, e), gradients(exact, truth, g, e), strict=True
    )
    for mine, theirs, true in grads:
        assert rms_error(mine, true) <= rms_error(theirs, true)
    assert {"mm", "addmm"} == set(wide_products)
