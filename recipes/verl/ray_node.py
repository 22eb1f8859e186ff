"""Runs a command with a Ray node of its own: on loopback, with fixed ports that are held for it.

    python recipes/verl/ray_node.py [options of `ray start`] -- COMMAND [argument ...]

Where Ray's agents choose their ports themselves, the raylet waits 15 seconds for each to name its own, and on a busy
machine the start ends in "The current node timed out during startup". It does not wait for ports that are given. A free
port that is looked up, released and used later may be taken by then; these are held from the look-up on. The node is
reached from this machine alone, by processes that know its token, and ends with the process that started it.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PORTS = (
    *("port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port", "metrics-export-port"),
    *("runtime-env-agent-port", "ray-client-server-port", "dashboard-port"),
)
"""Options of `ray start`: what it would wait for, or guess (6379, 10001, 8265)."""

OTHERS = ("--min-worker-port=0", "--max-worker-port=0", "--node-manager-port=0", "--object-manager-port=0")
"""Ports that whoever listens there asks of the system itself; Ray would guess those of workers (10002 to 19999)."""

PATIENCE = 60
"""Seconds that an ending node has; Ray gives its own processes 30."""


@contextmanager
def hold_ports(count: int) -> Iterator[list[int]]:
    """Yield free ports of the loopback interface, held until the end of the block.

    A socket that is bound and does not listen: the system gives its port to nobody who asks for a free one, and a
    process that asks for it by its number, as Ray's do, may listen there (both set SO_REUSEADDR).

    Args:
        count: How many.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]


@contextmanager
def ray_node(*options: str, env: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Start a Ray node, and end it with the block.

    Args:
        options: Of `ray start`.
        env: Environment of the node and of all workers on it; by default that of this process.

    Yields:
        What a process needs in its environment to connect by `ray.init()`.

    Raises:
        RuntimeError: If the node does not start, with what Ray said of it.
    """
    access = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's switch for a node that will have no others: only then it takes the loopback interface's address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of Ray's sockets have to be short
    with hold_ports(len(PORTS)) as ports:
        fixed = [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
        node = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
                *("--no-monitor", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", *fixed, *OTHERS, *options),
            ],
            env={**(os.environ if env is None else env), **access},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the command; its node ends after it
            preexec_fn=_end_with_parent,
        )
        try:
            _wait_until_started(node)
            yield {**access, "RAY_ADDRESS": f"127.0.0.1:{ports[0]}"}
        finally:
            node.terminate()
            try:
                node.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                node.kill()
                node.communicate()
            shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    """Let the system end this process when its parent dies, of whatever cause (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait_until_started(node: "subprocess.Popen[str]") -> None:
    said = []
    assert node.stdout is not None
    for line in node.stdout:
        said.append(line)
        if "Ray runtime started." in line:
            return
    raise RuntimeError(f"Ray did not start (exit status {node.wait()}):\n{''.join(said[-40:])}")


def main(arguments: Sequence[str]) -> int:
    """Run a command beside a node of its own; return its exit status."""
    if "--" not in arguments[:-1]:
        print("ray_node.py: name a command: ray_node.py [options of `ray start`] -- COMMAND ...", file=sys.stderr)
        return 2
    split = arguments.index("--")
    try:
        with ray_node(*arguments[:split]) as access:
            command = subprocess.Popen(
                arguments[split + 1 :], env={**os.environ, **access}, preexec_fn=_end_with_parent
            )
            signal.signal(signal.SIGTERM, lambda *_: command.terminate())
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has got it as well
            status = command.wait()
    except (OSError, RuntimeError) as error:
        print(f"ray_node.py: {error}", file=sys.stderr)
        return 1
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
