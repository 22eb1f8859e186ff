"""Process groups of a test: one process a rank, a store in which they find each other, and a common end."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from forked import Forked

PATIENCE = 800  # below the limit at which pytest ends the test
"""Seconds. Reached only where all ranks hang: on a busy machine everything takes longer."""


@contextmanager
def rendezvous(world_size: int) -> Iterator[list[dict[str, str]]]:
    """Yield the environment variables of each rank, for a store that this process serves.

    A port that is looked up, released and used later may be taken by then; this one stays taken throughout.
    """
    store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, timeout=timedelta(minutes=5), wait_for_workers=False)
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    # As torchrun's agent does: the ranks then use this store and open none.
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    yield [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    del store


def wait_for_all_ranks(store: dist.Store, rank: int, world_size: int) -> None:
    """Wait until every rank is done; then each can end its process by `os._exit`.

    `dist.destroy_process_group` would not do: a group that a trainer's Reducer still refers to is destroyed with the
    last reference, under the interpreter's lock, which a thread of gloo's may need just then to give a tensor back.
    Both wait for ever (torch 2.13).
    """
    store.set(f"done {rank}", "")
    store.wait([f"done {other}" for other in range(world_size)])


def run_processes(
    command: Sequence[str], environment: Mapping[str, str], *, ranks: int, patience: float = PATIENCE
) -> list[str]:
    """Run a command in one process a rank and return what each printed.

    Output goes to files: a pipe that is read only when the rank before has ended may be full long before, and then both
    wait. The first rank that fails ends the others, which may be waiting for it, and every rank is quoted.

    Args:
        command: The same for all ranks.
        environment: The ranks' environment; the variables of the process group are added.
        ranks: How many.
        patience: Seconds after which all are taken to hang.

    Returns:
        The standard output of each rank.

    Raises:
        AssertionError: If a rank ended with another code than 0, or not in time.
    """

    def start(variables: Mapping[str, str], out: Path, err: Path) -> subprocess.Popen[bytes]:
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(command, env={**environment, **variables}, stdout=stdout, stderr=stderr)

    return _run(start, ranks, patience, " ".join(command))


def _run(start: Callable[..., Any], ranks: int | None, patience: float, what: str) -> list[str]:
    group = nullcontext([{}]) if ranks is None else rendezvous(ranks)
    ranks = ranks or 1
    with group as variables, tempfile.TemporaryDirectory() as folder:
        outputs = [[Path(folder, f"{rank}.{name}") for name in ("out", "err")] for rank in range(ranks)]
        processes: list[Any] = []
        try:
            for of_rank, (out, err) in zip(variables, outputs, strict=True):
                processes.append(start(of_rank, out, err))
            codes = _exit_codes(processes, patience)
        finally:
            for process in processes:
                process.kill()
                process.wait(60)
        if codes != [0] * ranks:
            quoted = "\n".join(
                f"--- rank {rank}, exit code {code}:\n{_tail(out)}\n{_tail(err)}"
                for rank, (code, (out, err)) in enumerate(zip(codes, outputs, strict=True))
            )
            raise AssertionError(f"{what}: not all of {ranks} ranks ended with 0\n{quoted}")
        return [out.read_text(errors="replace") for out, _ in outputs]


def run_forked(function: Callable[[], int | None], *, ranks: int | None, patience: float = 600) -> list[str]:
    """Call a function in one forked process a rank, which need not import anything again; as `run_processes` else.

    Args:
        function: Called in every rank; what it returns is the exit code. Pickled: no lambda and no closure.
        ranks: How many; None for one process without a group.
        patience: Seconds after which all are taken to hang.

    Returns:
        The standard output of each rank.

    Raises:
        AssertionError: If a rank ended with another code than 0, or not in time.
    """

    called = function if ranks is None else partial(_be_rank, function)
    return _run(partial(Forked, called), ranks, patience, getattr(function, "__name__", str(function)))


def _be_rank(function: Callable[[], int | None]) -> int | None:
    code = function()
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    wait_for_all_ranks(store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return code


def _exit_codes(processes: Sequence[Any], patience: float) -> list[int | None]:
    """Exit codes when all have ended or one has failed; None: still running, and a forked one has said where."""
    end = time.monotonic() + patience
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            return codes
        if time.monotonic() > end:
            return [process.wait(0) if isinstance(process, Forked) else process.poll() for process in processes]
        time.sleep(0.05)


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-5000:].strip()
