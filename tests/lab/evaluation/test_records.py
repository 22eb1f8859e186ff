"""The folder of an evaluation: one writer at a time, what a kill leaves, and damage in one clear line."""

import json
import re
import threading

import pytest

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.problems import Problem, ProblemSet
from dgpo.lab.evaluation.records import SAMPLES, SETTINGS, EvaluationDirectory
from dgpo.lab.evaluation.run import evaluate
from dgpo.lab.evaluation.sampling import Completion, Sampling

WANTED = {"problems": 3, "n": 2, "task": "mod"}


class Waiting:
    """A sampler that waits for leave before its second batch."""

    context = None

    def __init__(self):
        self.began, self.go = threading.Event(), threading.Event()

    def sample(self, requests, sampling, batch):
        if batch:
            self.began.set()
            assert self.go.wait(60)
        return [Completion(str(batch), 1, False)] * len(requests)


def run(path, sampler=None):
    def reward(completions, **columns):
        return [1.0 for _ in completions]

    if sampler is None:
        sampler = Waiting()
        sampler.go.set()
    problems = ProblemSet("mod", tuple(Problem(f"p{i}", "?", "1", {}) for i in range(3)), reward)
    directory = EvaluationDirectory(path)
    directory.open(WANTED)
    sampling = Sampling(1.0, 1.0, 5, 0)
    return evaluate(sampler, problems, n=2, sampling=sampling, answer_format="auto", batch_size=2, directory=directory)


def test_two_evaluations_do_not_write_into_one_folder(tmp_path):
    sampler = Waiting()
    first = threading.Thread(target=run, args=(tmp_path / "a", sampler))
    first.start()
    try:
        assert sampler.began.wait(60)
        with pytest.raises(ConfigError, match=r"is being written by another process \(dgpo eval, pid") as error:
            run(tmp_path / "a")
        assert "\n" not in str(error.value)
    finally:
        sampler.go.set()
        first.join()
    assert len((tmp_path / "a" / SAMPLES).read_text().splitlines()) == 6
    assert run(tmp_path / "a")["problems"] == 3  # and afterwards it is free again


@pytest.mark.parametrize("left", [[], [".lock"], ["settings.json.tmp"], [".lock", "settings.json.tmp"]])
def test_a_kill_before_there_are_settings_does_not_spoil_the_folder(tmp_path, left):
    (tmp_path / "a").mkdir()
    for name in left:
        (tmp_path / "a" / name).write_text("{")
    assert run(tmp_path / "a")["problems"] == 3


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\xff\xfe{}", b"[1, 2]", b"7", b'{"problem": "p1", "sample": 0}'])
def test_a_damaged_line_is_named(tmp_path, damage):
    run(tmp_path / "a")
    lines = (tmp_path / "a" / SAMPLES).read_bytes().split(b"\n")
    lines[2] = damage
    (tmp_path / "a" / SAMPLES).write_bytes(b"\n".join(lines))
    for read in (lambda: run(tmp_path / "a"), EvaluationDirectory(tmp_path / "a").read_samples):
        with pytest.raises(DataError, match=re.escape(f"{SAMPLES}, line 3, is damaged")) as error:
            read()
        assert "\n" not in str(error.value)


def test_a_last_line_that_a_kill_cut_off_is_no_completion(tmp_path):
    run(tmp_path / "a")
    whole = (tmp_path / "a" / SAMPLES).read_bytes()
    (tmp_path / "a" / SAMPLES).write_bytes(whole[:-20])
    with pytest.raises(DataError, match="not complete: 5 of 6"):
        EvaluationDirectory(tmp_path / "a").read_samples()
    run(tmp_path / "a")
    assert (tmp_path / "a" / SAMPLES).read_bytes() == whole


def test_settings_that_say_nothing_are_refused(tmp_path):
    run(tmp_path / "a")
    (tmp_path / "a" / SETTINGS).write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"settings\.json does not say how many problems"):
        EvaluationDirectory(tmp_path / "a").read_samples()
    with pytest.raises(ConfigError, match="holds an evaluation with problems: None"):
        run(tmp_path / "a")
