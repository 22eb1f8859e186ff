"""Who writes a folder: one process, and the others are told which."""

import json
import os
import re
import signal

import pytest

from dgpo.errors import ConfigError
from dgpo.lab.folder_lock import LOCK, FolderLock, refuse_if_held


def holding(folder, then):
    """Fork a child that takes the lock and then does something; return its pid once it has the lock."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with FolderLock(folder, "dgpo train", "Wait."):
                os.write(told, b"x")
                then()
        finally:
            os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def take(folder):
    with FolderLock(folder, "dgpo train", "Wait."):
        pass


def test_the_second_is_told_who_the_first_is_until_that_one_is_killed(tmp_path):
    pid = holding(tmp_path, signal.pause)
    told = rf"is being written by another process \(dgpo train, pid {pid} on .+, since \d{{4}}-[\d: -]+\)\. Wait\."
    try:
        for attempt in (lambda: take(tmp_path), lambda: refuse_if_held(tmp_path, "Wait.")):
            with pytest.raises(ConfigError, match=re.escape(str(tmp_path)) + " " + told):
                attempt()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (tmp_path / LOCK).exists()  # what the killed one left stops nobody
    refuse_if_held(tmp_path, "Wait.")
    take(tmp_path)


def test_nothing_is_left_and_an_empty_folder_goes_too(tmp_path):
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
    (tmp_path / "used" / "a.txt").write_text("a")
    for name in ("empty", "used"):
        take(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "a.txt"]


def test_a_child_that_outlives_the_holder_does_not_hold_the_lock(tmp_path):
    report = tmp_path / "child"
    (tmp_path / "run").mkdir()

    def leave_a_child():
        child = os.fork()
        if not child:
            signal.pause()
        report.write_text(str(child))
        os._exit(0)

    pid = holding(tmp_path / "run", leave_a_child)
    os.waitpid(pid, 0)
    try:
        take(tmp_path / "run")
    finally:
        os.kill(int(report.read_text()), signal.SIGKILL)


def test_many_at_once_one_wins(tmp_path):
    """Forked at one moment, each either has the folder to itself, and says so in a file, or is refused."""
    (tmp_path / "run").mkdir()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pids = []
    for _ in range(8):
        pid = os.fork()
        if not pid:
            for _ in range(30):
                try:
                    with FolderLock(tmp_path / "run", "dgpo train", "Wait."):
                        os.write(log, json.dumps([os.getpid(), "in"]).encode() + b"\n")
                        (tmp_path / "run" / "file").touch()
                        os.write(log, json.dumps([os.getpid(), "out"]).encode() + b"\n")
                except ConfigError:
                    pass
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(events) >= 60
    for (first, entered), (second, left) in zip(events[::2], events[1::2], strict=True):
        assert (first, entered, left) == (second, "in", "out")


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def none(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    caplog.set_level("WARNING")
    take(tmp_path)
    assert "has no locks" in caplog.text
