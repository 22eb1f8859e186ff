"""Fixtures of the verl engine's tests, which need the environment of `make test-verl`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("verl") is None:  # the environment of the TRL engine: the two exclude each other
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_cpu"
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from support import make_model

    return make_model(tmp_path_factory.mktemp("verl"))
