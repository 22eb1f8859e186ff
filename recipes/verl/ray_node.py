"""Runs a command with a Ray node of its own: on loopback, with fixed ports that are held for it.

    python recipes/verl/ray_node.py [options of `ray start`] -- COMMAND [argument ...]

Where Ray's agents choose their ports themselves, the raylet waits 15 seconds for each to name its own, and on a busy
machine the start ends in "The current node timed out during startup". It does not wait for ports that are given. A free
port that is looked up, released and used later may be taken by then; these are held from the look-up on. Ray's other
limits of time are raised. The node is reached from this machine alone, by processes that know its token, and ends with
the process that started it.
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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PORTS = (
    *("port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port", "metrics-export-port"),
    *("runtime-env-agent-port", "ray-client-server-port", "dashboard-port"),
)
"""Options of `ray start`: what it would wait for, or guess (6379, 10001, 8265)."""

OTHERS = ("--min-worker-port=0", "--max-worker-port=0", "--node-manager-port=0", "--object-manager-port=0")
"""Ports that whoever listens there asks of the system itself; Ray would guess those of workers (10002 to 19999)."""

LIMITS = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_health_check_failure_threshold": "60",
    # How long a caller waits for the report of an actor's death before it raises "unavailable"; Ray: 1 second.
    "RAY_timeout_ms_task_wait_for_death_info": "600000",
}
"""Environment variables of Ray's, for the node and for what connects to it; the caller's own values precede."""

START_PATIENCE = 600
"""Seconds that a node has to be known to Ray; Ray: 30, not configurable."""

END_PATIENCE = 60
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
    env = os.environ if env is None else env
    access = {
        **{name: env.get(name, value) for name, value in LIMITS.items()},
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
                *(sys.executable, "-P", __file__, "start", "--head", "--block", "--disable-usage-stats"),
                *("--no-monitor", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", *fixed, *OTHERS, *options),
            ],
            env={**env, **access},
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
                node.communicate(timeout=END_PATIENCE)
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


def _start(arguments: Sequence[str]) -> None:
    """Run `ray start`, and wait longer than it does until the node is known."""
    from ray._private import services
    from ray.scripts.scripts import cli

    get_node, end = services.get_node, time.monotonic() + START_PATIENCE

    def get_node_patiently(*args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return get_node(*args, **kwargs)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    services.get_node = get_node_patiently
    cli.main(args=list(arguments), prog_name="ray")


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
    if sys.argv[1:2] == ["start"]:
        _start(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
