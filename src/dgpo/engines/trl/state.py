"""What TRL does not save with a checkpoint, so that a resumed run ends with the same parameters, bit for bit.

TRL restarts its micro-step counter at 0 and drops the buffered rollouts, so a run resumed inside of a generation window
is out of phase for good; and the weights of a moving reference (`sync_ref_model`) are not saved at all. All three go
into `checkpoint-N/dgpo_state/`, as safetensors.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dgpo.errors import TrainingError

FOLDER = "dgpo_state"


def save_rollout_state(
    checkpoint: Path, rank: int, step: int, buffer: list[dict[str, Any]] | None, layout: dict[str, int]
) -> None:
    """Write the micro-step counter and the buffered rollouts of one rank.

    Args:
        checkpoint: The checkpoint's folder; made if absent.
        rank: Index of the process.
        step: TRL's count of forward and backward passes (`_step`).
        buffer: TRL's buffered batches (`_buffered_inputs`): dictionaries of tensors and `None`.
        layout: What the counter and the buffer depend on: numbers of processes, steps per generation and so on.

    Raises:
        TrainingError: If the buffer holds something else than tensors, whose restoration could not be exact.
    """
    tensors: dict[str, Tensor] = {}
    for index, batch in enumerate(buffer or []):
        for name, value in batch.items():
            if isinstance(value, Tensor):
                # Slices of one generation batch share storage, which safetensors refuses.
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous().clone()
            elif value is not None:
                raise TrainingError(
                    f"The rollout buffer holds {name!r} of type {type(value).__name__}, which cannot be saved,"
                    " so that no run could be resumed exactly. Set save_strategy='no', or save_only_model=True."
                )
    facts = {"step": step, "num_batches": None if buffer is None else len(buffer), "layout": layout}
    _write(checkpoint / FOLDER / f"rank_{rank}.safetensors", tensors, facts)


def load_rollout_state(
    checkpoint: Path, rank: int, device: torch.device
) -> tuple[int, list[dict[str, Any]] | None, dict[str, int]] | None:
    """Return the counter, the buffer and the layout that were written, or `None` where nothing was."""
    path = checkpoint / FOLDER / f"rank_{rank}.safetensors"
    if not path.exists():
        return None
    with safe_open(str(path), framework="pt", device="cpu") as file:
        facts = json.loads(file.metadata()["dgpo"])
        if facts["num_batches"] is None:
            return facts["step"], None, facts["layout"]
        buffer: list[dict[str, Any]] = [{} for _ in range(facts["num_batches"])]
        for key in file.keys():  # noqa: SIM118  a safetensors file is not a dictionary
            index, _, name = key.partition(".")
            buffer[int(index)][name] = file.get_tensor(key).to(device)
    return facts["step"], buffer, facts["layout"]


def save_reference(checkpoint: Path, rank: int, reference: nn.Module, *, sharded: bool) -> None:
    """Write the parameters of a moving reference: each rank its shard, or the main process all of them."""
    if not sharded and rank != 0:
        return
    tensors = {name: _local(p).detach().cpu().contiguous().clone() for name, p in reference.named_parameters()}
    _write(_reference_path(checkpoint, rank, sharded), tensors, {"sharded": sharded})


def load_reference(checkpoint: Path, rank: int, reference: nn.Module, *, sharded: bool) -> None:
    """Restore the parameters that `save_reference` wrote.

    Args:
        checkpoint: The checkpoint's folder.
        rank: Index of the process.
        reference: The model to restore, in place.
        sharded: Whether each rank holds a shard.

    Raises:
        TrainingError: If the file is absent or was written by another number of processes.
    """
    path = _reference_path(checkpoint, rank, sharded)
    if not path.exists():
        raise TrainingError(
            f"{path} is missing: the checkpoint does not hold the moving reference, which sync_ref_model needs (was"
            " save_only_model set?). Resume from another checkpoint, or start a new run."
        )
    with safe_open(str(path), framework="pt", device="cpu") as file, torch.no_grad():
        for name, parameter in reference.named_parameters():
            _local(parameter).copy_(file.get_tensor(name))


def _reference_path(checkpoint: Path, rank: int, sharded: bool) -> Path:
    return checkpoint / FOLDER / (f"reference_rank_{rank}.safetensors" if sharded else "reference.safetensors")


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write atomically, so that a killed process leaves no half file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, str(partial), metadata={"dgpo": json.dumps(facts)})
    partial.replace(path)
