"""What every test of faults starts from: a small model, and a run and an evaluation without any fault."""

import gc
import os
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import dgpo, evaluation, facts_of_evaluation, facts_of_run, training
from file_operations import Faults

ALL = os.environ.get("TORTURE") == "all"
SEED = int(os.environ.get("TORTURE_SEED", "0"))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Commands, the number of their file operations, and the facts that every run must end with."""
    from dgpo.lab.cli.main import main
    from dgpo.lab.tasks.forks import warm_up_model

    folder = tmp_path_factory.mktemp("torture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = warm_up_model(num_forks=1, steps=100, progress=False)
        words = {"train": training(model), "eval": evaluation(model)}
        (folder / "warm").mkdir()
        patch.chdir(folder / "warm")
        for name in words:  # in this process, so that children need not load anything
            assert main([str(word) for word in words[name]]) == 0
        gc.collect()
        gc.freeze()
        whole, counts = folder / "whole", {}
        whole.mkdir()
        for name in words:
            faults = Faults(whole, log=folder / f"{name}.log")
            ended = dgpo(words[name], whole, faults)
            assert ended.code == 0, ended
            operations = (folder / f"{name}.log").read_text().splitlines()
            counts[name] = len(operations)
            if name == "train":
                closed = next(at for at, line in enumerate(operations, 1) if line.startswith("replace checksums.json"))
        facts = {"train": facts_of_run(whole / "run"), "eval": facts_of_evaluation(whole / "measured")}
        rewards = [line["reward"] for line in facts["train"]["metrics"] if "reward" in line]
        assert 0 < sum(rewards) < len(rewards)  # it learns, so that weights move
        yield SimpleNamespace(model=model, words=words, counts=counts, facts=facts, whole=whole, closed=closed)
        gc.unfreeze()


@pytest.fixture
def sandbox(tmp_path):
    """A folder for one case after the other: emptied by each call."""

    def fresh() -> Path:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return fresh


def chosen(cases, shard: int, shards: int, few: int, name: str) -> list:
    """A shard's part of all cases, or of a few that the seed draws."""
    cases = list(cases)
    if not ALL:
        cases = sorted(random.Random(f"{SEED} {name}").sample(cases, min(few, len(cases))))
    return cases[shard::shards]
