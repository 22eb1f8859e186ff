"""A rank that fails ends its test at once and is quoted; one that prints much does not stop the others."""

import os
import re
import signal
import sys
import time
from functools import partial

import pytest
import torch.distributed as dist

from forked import Forked
from process_groups import run_forked, run_processes

HEAD = "import os, sys, time; from pathlib import Path; rank = int(os.environ['RANK'])\n"


def run(code: str, *args: str, patience: float = 300) -> list[str]:
    return run_processes([sys.executable, "-c", HEAD + code, *args], os.environ, ranks=2, patience=patience)


def test_what_each_rank_printed_is_returned_in_their_order():
    assert run("time.sleep(1 - rank); print('I am', rank, os.environ['WORLD_SIZE'])") == ["I am 0 2\n", "I am 1 2\n"]


def test_a_rank_that_fails_ends_the_others_and_is_quoted(tmp_path):
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"(?s)rank 0, exit code None:\nI wait.*rank 1, exit code 1:.*real reason"):
        run(
            "print('I wait', flush=True)\n"
            "marker = Path(sys.argv[1])\n"
            "if rank == 0: marker.touch(); time.sleep(1000)\n"
            "while not marker.exists(): time.sleep(0.05)\n"
            "sys.exit('the real reason')\n",
            str(tmp_path / "waiting"),
        )
    assert time.monotonic() - began < 100  # rank 0 would wait for ever


def test_a_rank_that_prints_much_before_the_others_are_done_does_not_wait_for_a_reader(tmp_path):
    code = (
        "marker = Path(sys.argv[1])\n"
        "if rank == 1: sys.stderr.write('a warning\\n' * 50_000); sys.stderr.flush(); marker.touch()\n"
        "while not marker.exists(): time.sleep(0.05)\n"
    )
    assert run(code, str(tmp_path / "said")) == ["", ""]


def test_ranks_that_hang_are_ended():
    with pytest.raises(AssertionError, match=r"(?s)rank 0, exit code None:.*rank 1, exit code None:"):
        run("time.sleep(1000)", patience=1)


def say_and_fail():
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    print("I am", os.environ["RANK"])
    store.set(f"said {os.environ['RANK']}", "")
    if os.environ["RANK"] == "1":
        store.wait(["said 0"])
        raise ValueError("the real reason")
    time.sleep(1000)


def say():
    print("I am", os.environ["RANK"])


def count_threads_of_parent():
    print(len(os.listdir(f"/proc/{os.getppid()}/task")))


def test_forked_ranks_are_quoted_and_ended_too():
    with pytest.raises(
        AssertionError,
        match=r"(?s)say_and_fail.*exit code None:\nI am 0.*exit code 1:\nI am 1.*the real reason",
    ):
        run_forked(say_and_fail, ranks=2)
    assert run_forked(say, ranks=2) == ["I am 0\n", "I am 1\n"]
    with pytest.raises(AssertionError, match="exit code 3"):
        run_forked(partial(int, "3"), ranks=1)


def test_a_forked_child_that_hangs_says_where(tmp_path):
    out, err = tmp_path / "out", tmp_path / "err"
    child = Forked(hang_here, {}, out, err)
    while "I hang" not in out.read_text():
        time.sleep(0.05)
    assert child.wait(0) is None
    child.kill()
    assert child.wait(60) == -signal.SIGKILL
    assert re.search(r"line \d+ in hang_here", err.read_text())


def hang_here():
    print("I hang")
    time.sleep(1000)


def test_children_are_forked_from_a_process_with_one_thread():
    """Others could hold a lock at that moment, and the child would have the lock without the thread."""
    assert run_forked(count_threads_of_parent, ranks=None) == ["1\n"]
