"""The Triton kernels without a GPU: run by Triton's interpreter, compiled to machine code, and left out in peace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgpo.lm_head import dispatch, lm_head_stats
from dgpo.lm_head.tiles_torch import TORCH_TILES

pytest.importorskip("triton", reason="Triton is not installed (it is part of the 'dev' extra on Linux)")

CHECKS = Path(__file__).with_name("triton_checks.py")


def run_checks(selection: str, env: dict[str, str]) -> str:
    options = ["-q", "-p", "no:xdist", "-k", selection]
    command = [sys.executable, "-m", "pytest", *options, str(CHECKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ | env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("selection", ["no_worse", "not no_worse"])
def test_under_the_interpreter(selection):
    assert " passed" in run_checks(selection, {"TRITON_INTERPRET": "1"})


COMPILE = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dgpo.lm_head import tiles_triton

POINTERS = dict(Z="*fp32", Y="*fp32", X="*fp32", STATE="*fp32", Z_TARGET="*fp32", Y_TARGET="*fp32", TARGETS="*i64",
                z_bias="*fp32", y_bias="*fp32", bias="*fp32", MINUS_LSE="*fp32", ROW_SCALE="*fp32", CONSTANT="*fp32",
                E="*fp32", AT_TARGET="*fp32", factor="fp32", tanh_scale="fp32")

def compile(kernel, out, warps, **constants):
    names = kernel.arg_names
    assert set(constants) <= set(names), constants
    signature = {n: "constexpr" if n in constants else out if n == "OUT" else POINTERS.get(n, "i32") for n in names}
    source = ASTSource(kernel, signature, constexprs={(names.index(n),): v for n, v in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": warps})
    assert len(compiled.asm["cubin"]) > 1000
    return compiled.asm["ptx"]

for flag in (False, True):
    no_bias = {} if flag else dict(z_bias=None, y_bias=None)
    for pair, entropy in ((False, False), (False, True), (True, True)):
        ptx = compile(tiles_triton._accumulate_kernel, "", 4, PAIR=pair, HAS_ENTROPY=entropy, HAS_Z_BIAS=flag,
                      HAS_Y_BIAS=flag, HAS_SOFTCAP=flag, BLOCK=2048, **no_bias)
        assert ("div.rn.f32" in ptx) == pair, "|a| / |b| of equal heads must be exactly 1"
    for out in ("*fp32", "*bf16", "*fp16"):
        compile(tiles_triton._dlogits_kernel, out, 8, HAS_BIAS=flag, HAS_SOFTCAP=flag, HAS_ENTROPY=flag,
                ZERO_TARGETS=not flag, BLOCK=4096, **({} if flag else {"bias": None}))
        compile(tiles_triton._scatter_targets_kernel, out, 4, ZERO=flag, BLOCK=256)
print("compiled with Triton", triton.__version__)
"""


@pytest.mark.parametrize("capability", [80, 90], ids=["A100", "H100"])
def test_kernels_compile_for_a_gpu_that_is_not_here(capability, tmp_path):
    """The interpreter checks no types; the compiler does, for every combination of flags, down to machine code."""
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}  # nothing stale is reused
    script = tmp_path / "compile_kernels.py"  # the compiler reads its source
    script.write_text(COMPILE)
    command = [sys.executable, str(script), str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "compiled with Triton" in done.stdout


def test_the_kernels_are_compiled_with_the_names_of_their_own_module():
    """On a GPU Triton compiles them in this process, so the shape checks of the other modules must leave them alone."""
    from triton import language
    from triton.runtime import JITFunction
    from triton.runtime.interpreter import InterpretedFunction

    from dgpo.lm_head import tiles_triton

    kernels = [x for x in vars(tiles_triton).values() if isinstance(x, JITFunction | InterpretedFunction)]
    assert tiles_triton._accumulate_kernel in kernels
    for kernel in kernels:
        assert kernel.fn.__globals__["tl"] is language
        assert kernel.fn.__globals__ is vars(tiles_triton)


def test_a_cpu_is_told_what_triton_needs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a CUDA device and hidden is on cpu"):
        lm_head_stats(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([0]), impl="triton")


def test_on_a_cpu_nothing_of_triton_is_imported():
    code = (
        "import sys, torch, dgpo;"
        "dgpo.lm_head_stats(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([0]));"
        "assert 'triton' not in sys.modules and 'dgpo.lm_head.tiles_triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_kernels_that_cannot_compile_are_named_and_left_out(monkeypatch):
    """A GPU whose machine has no C compiler: training goes on with the torch implementation, and says so once."""

    def fail(tile_ops, device):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(dispatch, "check_tiles", fail)
    dispatch.load_triton_tiles.cache_clear()
    device = torch.device("cuda")
    with pytest.warns(RuntimeWarning, match="Failed to find C compiler"):
        assert dispatch.choose_tile_ops("auto", torch.bfloat16, device) is TORCH_TILES
    assert dispatch.choose_tile_ops("auto", torch.bfloat16, device) is TORCH_TILES
    with pytest.raises(ValueError, match=r"cuda: .* RuntimeError: Failed to find C compiler.*impl='auto'"):
        dispatch.choose_tile_ops("triton", torch.bfloat16, device)
    assert dispatch.choose_tile_ops("streamed", torch.bfloat16, device) is TORCH_TILES
    dispatch.load_triton_tiles.cache_clear()
