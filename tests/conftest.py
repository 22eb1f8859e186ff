"""What every test shares: one thread, no hub, and shape annotations that are checked."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

sys.path.insert(0, str(Path(__file__).parent))

import hypothesis
import jaxtyping
import pytest
import torch

import shape_checks
from made_once import made_once

shape_checks.install()
torch.set_num_threads(1)

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("dgpo", deadline=None)
hypothesis.settings.load_profile("dgpo")


def pytest_collection_finish() -> None:
    """Leave what the libraries hold out of every collection: accelerate makes one before each training."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it be collected at the end, or nanobind reports it as leaked."""
    gc.unfreeze()


@pytest.fixture
def unchecked_shapes():
    """Switch the shape checks off: what a user without jaxtyping gets is our own error message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def warmed_up(tmp_path_factory, monkeypatch):
    """The model that the quickstart starts from lies in the cache; making it takes half a minute."""
    from dgpo.lab.tasks.forks import warm_up_model

    def make(folder: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DGPO_CACHE", str(folder))
            warm_up_model(progress=False)
        return str(folder)

    monkeypatch.setenv("DGPO_CACHE", made_once(tmp_path_factory, "warmed-up", make))


@pytest.fixture
def settings():
    from dgpo.credit_log import CreditSettings

    options = {"tau": 0.5, "kappa": 1.0}
    return CreditSettings(rule="dgpo", options=options, source="", vocab_size=50, engine="trl")


@pytest.fixture
def completion():
    """Makes a completion of the given tokens with figures that differ from token to token."""

    from dgpo.credit_log import CompletionCredit

    def make(*tokens: str, **changes) -> CompletionCredit:
        count = len(tokens)
        rising = [(index + 1) / (count + 1) for index in range(count)]
        facts = {
            "prompt": "What is 2 + 2?",
            "ids": list(range(count)),
            "tokens": list(tokens),
            "w": [2 * x for x in rising],
            "d": [x / 2 for x in rising],
            "h": rising,
            "s": [x * x / 2 for x in rising],
            "logp": [-x for x in rising],
            "log_ratio": [x - 0.5 for x in rising],
            "advantage": 1.25,
            "reward": 1.0,
            "rewards": {"exact": 1.0},
        }
        return CompletionCredit(**{**facts, **changes})

    return make
