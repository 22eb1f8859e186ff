"""Two processes in one directory, whichever way each came: one goes on, the other is told who that is."""

import signal

import pytest
from commands import CHECKPOINT, dgpo, facts_of_evaluation, facts_of_run, start
from file_operations import KILL, STOP, Faults

RESUME = ["train", "--resume", "run"]


def start_and_stop(words, folder, at):
    """Start a command and wait until it stops at a file operation."""
    started = start(words, folder, Faults(folder, STOP, at), name=".first")
    started.wait_until_it_stops()
    return started


def is_told(words, folder, pid, command) -> None:
    """The second command ends at once, with pid and remedy, and changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    second = dgpo(words, folder)
    assert second.code == 2, second
    assert f"is being written by another process ({command}, pid {pid} on " in second.err
    assert "Traceback" not in second.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("is_resumed", [False, True], ids=["a new run", "a resumed run"])
def test_a_run_that_is_alive(small, sandbox, is_resumed):
    words, folder = small.words["train"], sandbox()
    if is_resumed:
        assert dgpo(words, folder, Faults(folder, KILL, CHECKPOINT)).code == -signal.SIGKILL
    first = start_and_stop(RESUME if is_resumed else words, folder, 12 if is_resumed else small.counts["train"] // 2)
    for others in (RESUME, words, [*RESUME, "--max_steps=8"]):
        is_told(others, folder, first.pid, "dgpo train")
    # A run that is alive can be looked at, and an evaluation of its own does not disturb it.
    assert dgpo(["report", "run"], folder).code == 0
    first.signal(signal.SIGCONT)
    assert first.ended().code == 0
    assert facts_of_run(folder / "run") == small.facts["train"]


def test_an_evaluation_that_is_alive(small, sandbox):
    words, folder = small.words["eval"], sandbox()
    first = start_and_stop(words, folder, small.counts["eval"] // 2)
    is_told(words, folder, first.pid, "dgpo eval")
    assert dgpo([*words, "--n=2"], folder).code == 2  # other settings are refused anyway
    first.signal(signal.SIGCONT)
    assert first.ended().code == 0
    assert facts_of_evaluation(folder / "measured") == small.facts["eval"]


@pytest.mark.parametrize("name", ["train", "eval"])
def test_many_at_once(small, sandbox, name):
    folder = sandbox()
    started = [start(small.words[name], folder, name=f".{number}") for number in range(3)]
    ends = sorted((one.ended() for one in started), key=lambda one: one.code)
    # An evaluation that begins when another has ended finds everything done.
    assert [one.code for one in ends] in ([[0, 2, 2]] if name == "train" else [[0, 2, 2], [0, 0, 2], [0, 0, 0]]), ends
    assert all("Traceback" not in one.err for one in ends)
    if name == "train":
        assert facts_of_run(folder / "run") == small.facts["train"]
    else:
        assert facts_of_evaluation(folder / "measured") == small.facts["eval"]
