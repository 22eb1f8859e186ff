"""Collectives that functions over a process group share, and the check that all ranks were called alike.

A rank that raises by itself leaves the others waiting in a collective until it times out. So ranks exchange what they
were called with, and whether that was an error, before any of them goes on.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist

from dgpo.tensor_types import Tensor


def check_process_group(process_group: dist.ProcessGroup | None, instead: str) -> None:
    """Raise if there is no process group or this process does not belong to it; `instead` is the remedy."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"torch.distributed has no process group; call torch.distributed.init_process_group first, or {instead}."
        )
    if dist.get_rank(process_group) < 0:
        raise ValueError("this process is not a member of process_group; call only from the ranks that are in it.")


def device_of(*arguments: object) -> torch.device:
    """Return the device of the first tensor among the arguments, of any type; the CPU if there is none."""
    return next((x.device for x in arguments if isinstance(x, Tensor)), torch.device("cpu"))


def gather_ranks(values: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    """Return the tensors of all ranks, which must be of one shape, stacked along a new first dimension."""
    world_size = dist.get_world_size(process_group)
    gathered = values.new_empty(world_size, *values.shape)
    dist.all_gather(list(gathered.unbind()), values.contiguous(), group=process_group)
    return gathered


def compare_calls(
    fields: Mapping[str, float | Tensor],
    error: Exception | None,
    *,
    may_differ: tuple[str, ...] = (),
    device: torch.device,
    process_group: dist.ProcessGroup | None,
) -> list[dict[str, float]]:
    """Return the arguments of every rank, in rank order; raise on every rank if they differ or one is wrong.

    One all-gather of a few numbers, and on an accelerator one wait for it.

    Args:
        fields: Numbers by name, the same names on every rank; exact in float64. Ignored where `error` is given.
        error: The exception that checking this rank's arguments raised, or None.
        may_differ: Names of the fields that need not be equal.
        device: Device of the collective.
        process_group: The ranks.

    Returns:
        The fields of each rank.

    Raises:
        Exception: `error` itself on the rank that had it.
        ValueError: On the others, naming that rank; on all of them where a field differs.
    """
    values = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in fields.values()]
    flag = torch.tensor(float(error is not None), dtype=torch.float64, device=device)
    own = torch.stack([flag, *values])
    ranks = gather_ranks(own, process_group).tolist()
    if error is not None:
        raise error
    failed = [rank for rank, row in enumerate(ranks) if row[0]]
    if failed:
        raise ValueError(f"rank {failed[0]} of the process group refused its arguments; its own message says why.")
    calls = [dict(zip(fields, row[1:], strict=True)) for row in ranks]
    for name in fields:
        if name not in may_differ and any(call[name] != calls[0][name] for call in calls):
            by_rank = ", ".join(f"rank {rank}: {call[name]:g}" for rank, call in enumerate(calls))
            raise ValueError(f"{name} must be the same on every rank of the process group, got {by_rank}.")
    return calls
