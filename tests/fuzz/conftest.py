import sys
from pathlib import Path

import pytest

from dgpo.lab.train.schema import recipe_schema

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def schema():
    return recipe_schema()
