"""Where the processes that a test starts find each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist


@contextmanager
def meeting_place(world_size: int) -> Iterator[list[dict[str, str]]]:
    """Yield the environment variables of each rank, for a store that this process serves.

    A port that is looked for, released and used later may be anybody's by then; this one stays taken throughout.
    """
    store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, timeout=timedelta(minutes=5), wait_for_workers=False)
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    # What torchrun's agent says to its workers: the store is there, do not open one.
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    yield [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    del store
