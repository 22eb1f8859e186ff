"""A browser for all tests of the page, and a run whose every text is hostile."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import browser`

from browser import Browser, find_chromium
from hostile import HOSTILE

from dgpo.credit_log import LoggedStep
from dgpo.lab.runs.reader import Run


@pytest.fixture(scope="package")
def browser():
    executable = find_chromium()
    if executable is None:
        if os.environ.get("DGPO_NEEDS_BROWSER"):
            pytest.fail("No Chromium, though DGPO_NEEDS_BROWSER is set.")
        pytest.skip(
            "NO BROWSER: the page was not tested. Install Chromium (apt-get install chromium), or set CHROMIUM."
        )
    made = Browser(executable)
    yield made
    made.close()


@pytest.fixture
def hostile(completion):
    alternatives = {i: {"policy": [(t, 0.5)], "reference": [(t, 0.25)]} for i, t in enumerate(HOSTILE)}
    made = completion(
        *HOSTILE,
        prompt="".join(HOSTILE),
        hint="".join(HOSTILE),
        control="".join(HOSTILE),
        alternatives=alternatives,
        rewards={"<b>": 1.0, "</script>": 0.5},
    )
    steps = [LoggedStep(1, {"out_of": 8}, [made]), LoggedStep(20, {"out_of": 8}, [made, completion("a", reward=0.0)])]
    return Run(
        "<script>alert(6)</script>", {"<img onerror=alert(7)>": [(1, 0.0), (2, 1.0)]}, {"a<b>": "<i>"}, {}, steps
    )
