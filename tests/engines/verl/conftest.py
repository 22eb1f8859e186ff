"""Fixtures of the verl engine's tests, which need the environment of `make test-verl`."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("verl") is None:  # the environment of the TRL engine: the two exclude each other
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_cpu"
    sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put whole runs through Ray first: they take the longest, and one process alone would do them at the end."""
    items.sort(key=lambda item: item.path.name != "test_ray.py")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from support import make_model

    return make_model(tmp_path_factory.mktemp("verl"))


@pytest.fixture(scope="session")
def recipe_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from support import recipe_check

    check, folder = recipe_check(), tmp_path_factory.mktemp("models")
    return {shape: check.placeholder_model(folder, shape) for shape in check.SHAPES}


@pytest.fixture
def compose(recipe_models: dict[str, Path], tmp_path: Path) -> Callable[..., Any]:
    """Composes a recipe of recipes/verl with placeholders for its paths."""
    from support import RECIPES, recipe_check

    def composed(recipe: str, *overrides: str) -> Any:
        shape = "quick" if recipe == "quick" else "7b" if "scale=7b" in overrides else "32b"
        paths = [f"paths.data={tmp_path}", f"paths.model={recipe_models[shape]}"]
        paths += [f"paths.recipe={RECIPES}"] if recipe == "quick" else []
        return recipe_check().compose(recipe, *paths, *overrides)

    return composed
