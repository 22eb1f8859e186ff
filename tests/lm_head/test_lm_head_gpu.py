"""On a GPU: float64 truth, full logits of the same dtype, and our tiles by torch and by Triton.

The suite hides GPUs; run `CUDA_VISIBLE_DEVICES=0 pytest -m gpu tests/lm_head/test_lm_head_gpu.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_head_cases import Case, gradients, make_case, rms_error, run_reference

from dgpo.lm_head.dispatch import choose_tile_ops
from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.types import Head, LogitTransform

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TRANSFORMS = {"plain": LogitTransform(), "capped": LogitTransform(0.3, 7.0, 0.7)}


def on_gpu(case: Case) -> Case:
    policy, ref = (Head(*(None if x is None else x.cuda() for x in head)) for head in (case.policy, case.ref))
    return Case(policy, ref, case.targets.cuda())


@pytest.mark.parametrize("impl", ["streamed", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("shape", [(41, 401, 1271), (513, 256, 20_011), (1, 64, 1)], ids=str)
@pytest.mark.parametrize("tiling", [None, Tiling(32, 300, 32)], ids=["device tiles", "small tiles"])
def test_no_worse_than_full_logits(impl, dtype, transform, shape, tiling):
    case = on_gpu(make_case(*shape, bias=True))
    exact, dense, tiled = case.to(torch.float64, grad=True), case.to(dtype, grad=True), case.to(dtype, grad=True)
    tile_ops = choose_tile_ops(impl, dtype, torch.device("cuda"))
    truth, by_torch = run_reference(exact, transform), run_reference(dense, transform)
    ours = streamed_stats(tiled.policy, tiled.ref, tiled.targets, transform, dtype, tiling, tile_ops=tile_ops)
    for name, true in truth._asdict().items():
        assert rms_error(getattr(ours, name), true) <= 1.5 * rms_error(getattr(by_torch, name), true) + 1e-6, name
    upstream = torch.randn(2, shape[0], generator=torch.Generator().manual_seed(3)).cuda()
    spacing = torch.finfo(dtype).eps
    for true, of_dense, mine in zip(
        gradients(exact, truth, *upstream),
        gradients(dense, by_torch, *upstream),
        gradients(tiled, ours, *upstream),
        strict=True,
    ):
        # A tile of 16 bits rounds dL/dx once, whose sums may lose as much as one rounding of the result.
        assert rms_error(mine, true) <= 1.5 * rms_error(of_dense, true) + spacing * true.abs().max().item()


def test_what_is_checked_under_the_interpreter_holds_here():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        str(Path(__file__).with_name("triton_checks.py")),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=os.environ | {"TRITON_INTERPRET": "0"}
    )
    assert done.returncode == 0, done.stdout[-6000:]
