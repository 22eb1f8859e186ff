"""Folders that are taken away, links and names that no disk takes; Ctrl-C by a real signal, once and twice."""

import shutil
import signal
import time

import pytest
from commands import CHECKPOINT, continue_training, dgpo, facts_of_evaluation, facts_of_run
from file_operations import KILL, Faults
from test_double_starts import start_and_stop

LONG = "x" * 300
PLACES = {"train": "run", "eval": "measured"}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("place", [LONG, f"{LONG}/deeper", "file", "file/deeper"])
def test_an_output_directory_that_cannot_be(small, sandbox, name, place):
    folder = sandbox()
    (folder / "file").write_text("not a folder")
    words = [str(word).replace(f"={PLACES[name]}", f"={place}") for word in small.words[name]]
    refused = dgpo(words, folder)
    assert refused.code == 2, refused
    assert "Traceback" not in refused.err + refused.out
    assert len(refused.err) < 1500
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_that_is_taken_away(small, sandbox, name):
    words, folder = small.words[name], sandbox()
    started = start_and_stop(words, folder, small.counts[name] // 2)
    shutil.rmtree(folder / PLACES[name])
    started.signal(signal.SIGCONT)
    end = started.ended()
    assert end.code in (0, 1, 2), end
    assert "Traceback" not in end.err + end.out
    if end.code:
        assert "No such file or directory" in end.err
    shutil.rmtree(folder / PLACES[name], ignore_errors=True)
    assert dgpo(words, folder).code == 0


def test_a_link_to_a_checkpoint_that_is_not_whole(small, sandbox):
    folder = sandbox()
    assert dgpo(small.words["train"], folder, Faults(folder, KILL, CHECKPOINT)).code == -signal.SIGKILL
    other = folder / "elsewhere"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"half")
    (folder / "run" / "checkpoint-3").symlink_to(other)
    (folder / "run" / "checkpoint-9").symlink_to(folder / "nowhere")
    assert continue_training(small.words["train"], folder) == "resumed"
    assert (other / "model.safetensors").read_bytes() == b"half"
    assert facts_of_run(folder / "run") == small.facts["train"]


@pytest.mark.parametrize("seconds", [None, 0, 0.003, 0.02])
def test_ctrl_c_once_and_twice(small, sandbox, seconds):
    words, folder = small.words["train"], sandbox()
    started = start_and_stop(words, folder, CHECKPOINT)
    started.signal(signal.SIGINT)
    started.signal(signal.SIGCONT)
    if seconds is not None:
        time.sleep(seconds)
        started.signal(signal.SIGINT)
    end = started.ended()
    assert end.code == 130, end
    assert "Traceback" not in end.err + end.out
    assert "nothing was trained" not in end.err
    assert "Interrupted after step 3" in end.err
    assert "continue with: dgpo train --resume run" in end.err
    assert continue_training(words, folder) == "resumed"
    assert facts_of_run(folder / "run") == small.facts["train"]


@pytest.mark.parametrize("is_twice", [False, True])
def test_ctrl_c_in_an_evaluation(small, sandbox, is_twice):
    words, folder = small.words["eval"], sandbox()
    started = start_and_stop(words, folder, small.counts["eval"] // 2)
    for _ in range(1 + is_twice):
        started.signal(signal.SIGINT)
    started.signal(signal.SIGCONT)
    end = started.ended()
    assert end.code == 130, end
    assert "Traceback" not in end.err + end.out
    assert "Interrupted; what is finished is kept in measured; run the same command again" in end.err
    assert dgpo(words, folder).code == 0
    assert facts_of_evaluation(folder / "measured") == small.facts["eval"]
