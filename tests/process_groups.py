"""Process groups of a test: one process a rank, a store in which they find each other, and a common end."""

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

PATIENCE = 1500
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
    with rendezvous(ranks) as variables, tempfile.TemporaryDirectory() as folder:
        outputs = [[Path(folder, f"{rank}.{name}") for name in ("out", "err")] for rank in range(ranks)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for of_rank, (out, err) in zip(variables, outputs, strict=True):
                with out.open("wb") as stdout, err.open("wb") as stderr:
                    env = {**environment, **of_rank}
                    processes.append(subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr))
            codes = _exit_codes(processes, patience)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if codes != [0] * ranks:
            quoted = "\n".join(
                f"--- rank {rank}, exit code {code}:\n{_tail(out)}\n{_tail(err)}"
                for rank, (code, (out, err)) in enumerate(zip(codes, outputs, strict=True))
            )
            raise AssertionError(f"{' '.join(command)}: not all of {ranks} ranks ended with 0\n{quoted}")
        return [out.read_text(errors="replace") for out, _ in outputs]


def _exit_codes(processes: Sequence[subprocess.Popen], patience: float) -> list[int | None]:
    """Exit codes when all have ended or one has failed; None: still running."""
    end = time.monotonic() + patience
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes) or time.monotonic() > end:
            return codes
        time.sleep(0.05)


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-5000:].strip()
