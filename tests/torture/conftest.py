"""What every test of faults starts from: a small model, and a run and an evaluation without any fault."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import dgpo, evaluation, facts_of_evaluation, facts_of_run, training
from file_operations import Faults

from made_once import made_once


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Commands, the number of their file operations, and the facts that every run must end with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield made_once(tmp_path_factory, "torture", make_small)


def make_small(folder: Path) -> SimpleNamespace:
    from dgpo.lab.tasks.forks import warm_up_model

    model = folder / "model"
    shutil.copytree(warm_up_model(num_forks=1, steps=100, progress=False), model)
    words = {"train": training(model), "eval": evaluation(model)}
    whole, counts = folder / "whole", {}
    whole.mkdir()
    for name in words:
        faults = Faults(whole, log=folder / f"{name}.log")
        ended = dgpo(words[name], whole, faults)
        assert ended.code == 0, ended
        counts[name] = len((folder / f"{name}.log").read_text().splitlines())
    facts = {"train": facts_of_run(whole / "run"), "eval": facts_of_evaluation(whole / "measured")}
    rewards = [line["reward"] for line in facts["train"]["metrics"] if "reward" in line]
    assert 0 < sum(rewards) < len(rewards)  # it learns, so that weights move
    return SimpleNamespace(model=model, words=words, counts=counts, facts=facts, whole=whole)


@pytest.fixture
def sandbox(tmp_path):
    """A folder for one case after the other: emptied by each call."""

    def fresh() -> Path:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return fresh
