import logging
import textwrap
import warnings
from pathlib import Path

import pytest

from dgpo.lab.train.schema import recipe_schema


@pytest.fixture(autouse=True)
def _libraries_as_they_were():
    """The command line silences libraries for its own process; other tests must not notice."""
    own = logging.getLogger("dgpo")
    handlers, propagate = list(own.handlers), own.propagate
    with warnings.catch_warnings():
        yield
    own.handlers, own.propagate = handlers, propagate


@pytest.fixture(scope="session")
def schema():
    return recipe_schema()


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a recipe and returns its path."""

    def write(text: str, name: str = "small.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model that speaks a little of the language of forks, made in a second."""
    from dgpo.lab.tasks.forks import warm_up_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return warm_up_model(num_forks=1, steps=40, batch_size=16, hidden_size=16, num_layers=1, progress=False)
