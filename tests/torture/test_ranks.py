"""One of two processes is killed or stopped: the other ends with a message, and the run can be continued."""

import contextlib
import os
import re
import signal

import pytest
from commands import CHECKPOINT, Ended, dgpo, facts_of_run, start
from file_operations import KILL, STOP, Faults

from process_groups import rendezvous

PATIENCE = 15
"""Seconds that a process waits for one that was stopped."""


class Pair:
    """A command in two processes of one group."""

    def __init__(self, words, folder, first=None, faults=None) -> None:
        self.stack = contextlib.ExitStack()
        self.started = [
            start(
                words,
                folder,
                None if rank else faults,
                name=f".{rank}",
                variables=variables,
                first=first if rank else None,
            )
            for rank, variables in enumerate(self.stack.enter_context(rendezvous(2)))
        ]
        self.main, self.other = self.started

    def ended(self) -> Ended:
        """How the main process ended."""
        return self.main.ended()

    def reap(self) -> int:
        """End the other one, if it goes on, and return its exit code."""
        with self.stack:
            self.other.process.kill()
            return self.other.ended().code


@pytest.fixture(scope="module")
def words(small):
    return [*small.words["train"], "--per_device_train_batch_size=4", "--use_cpu=true"]


@pytest.fixture(scope="module")
def expected(words, tmp_path_factory):
    """The facts of a run of two processes without any fault."""
    folder = tmp_path_factory.mktemp("pair") / "whole"
    folder.mkdir()
    pair = Pair(words, folder)
    assert pair.ended().code == 0
    pair.reap()
    return facts_of_run(folder / "run")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "another process has ended; its own message says why"),
        (signal.SIGSTOP, f"another process did not answer for {PATIENCE} s (ddp_timeout)"),
    ],
)
def test_the_other_process_ends_and_the_run_goes_on(words, expected, sandbox, number, reason):
    folder = sandbox()
    pair = Pair([*words, f"--ddp_timeout={PATIENCE}"], folder, faults=Faults(folder, STOP, CHECKPOINT))
    pair.main.wait_until_it_stops()
    pair.other.signal(number)
    pair.main.signal(signal.SIGCONT)
    main = pair.ended()
    assert main.code == 1, main
    assert "Traceback" not in main.err
    # The other one may be a step behind when it is struck.
    assert re.search(rf"The run failed after step [23]: {re.escape(reason)}", main.err), main.err
    assert "continue with: dgpo train --resume run" in main.err
    assert pair.reap() == -signal.SIGKILL
    again = Pair(["train", "--resume", "run", "--ddp_timeout=600"], folder)
    assert again.ended().code == 0
    again.reap()
    assert facts_of_run(folder / "run") == expected


def die() -> None:
    """Kill this process where the run directory is about to be claimed."""
    from dgpo.lab.train import train

    train.open_session = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_ends_while_the_directory_is_claimed_keeps_it_from_nobody(words, expected, sandbox):
    folder = sandbox()
    pair = Pair(words, folder, first=die)
    main = pair.ended()
    assert pair.reap() == -signal.SIGKILL
    assert main.code == 1, main
    assert "Traceback" not in main.err
    assert "The run could not begin: another process has ended" in main.err
    again = Pair(words, folder)
    assert again.ended().code == 0
    again.reap()
    assert facts_of_run(folder / "run") == expected


def test_one_process_is_told_that_the_run_had_two(words, expected, sandbox):
    folder = sandbox()
    pair = Pair(words, folder, faults=Faults(folder, KILL, CHECKPOINT))
    assert pair.ended().code == -signal.SIGKILL
    pair.reap()
    alone = dgpo(["train", "--resume", "run"], folder)
    assert alone.code == 2, alone
    assert "torchrun --nproc-per-node 2 -m dgpo.lab.cli.main train --resume run" in alone.err
