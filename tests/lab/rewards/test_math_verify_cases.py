"""The cases that math-verify publishes: what its own tests expect must come out of the pool.

They are in math-verify's source distribution, which `make install` fetches, and are not copied here.
"""

import json
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from dgpo.lab.rewards.math import MathReward

RELEASE = f"math_verify-{version('math-verify')}"
ARCHIVE = Path(__file__).parents[3] / ".venv" / "sources" / f"{RELEASE}.tar.gz"

# Test and number of the case -> why it comes out otherwise here.
OTHERWISE = {
    ("test_number_extraction", 6): "a gold answer 1,22 is the two numbers 1 and 22",
    ("test_latex_notation", 5): "the test reads LaTeX alone; a plain number is found here",
    ("test_latex_notation", 6): "the test reads LaTeX alone; a plain number is found here",
    ("test_complex_math_expressions", 7): "the test rounds to two digits; six are compared here",
    ("test_complex_math_expressions", 13): "the test rounds to two digits; six are compared here",
    ("test_set_rel_assymetry", 2): "the test asks that a set may equal a relation",
    ("test_strict_variable_comparison", 1): "the test asks that variables of other names be equal",
    ("test_open_thoughts", 7): "the gold answer cannot be read; the test compares texts",
    ("test_string_extraction", 8): "the gold answer cannot be read as a whole; half of it is no gold answer",
    ("test_string_extraction", 9): "the gold answer cannot be read as a whole, and the test expects 1 - 1/e = 1 + 1/e",
}


# Runs in a process of its own: the release's tests are a package that is called `tests`, like ours.
READ = """
import importlib, json, pathlib
rows = []
for file in sorted(pathlib.Path("tests").glob("test_*.py")):
    module = importlib.import_module(f"tests.{file.stem}")
    for name, function in vars(module).items():
        for mark in getattr(function, "pytestmark", []):
            names = [part.strip() for part in mark.args[0].split(",")]
            if mark.name == "parametrize" and {"gold", "pred"} <= set(names) and function.__module__ == module.__name__:
                for number, values in enumerate(mark.args[1]):
                    row = dict(zip(names, values, strict=True))
                    equal = bool(row.get("expected", row.get("result")))
                    rows.append([name, number, row["gold"], row["pred"], equal])
print(json.dumps(rows))
"""


def published_cases(folder):
    """Test, number, gold answer, completion and whether they are equal, from every table of the release."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    package = folder / RELEASE / "tests"
    (package / "__init__.py").touch()
    done = subprocess.run([sys.executable, "-c", READ], cwd=package.parent, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"no {ARCHIVE.name}: `make install` could not fetch it")
def test_cases_that_math_verify_publishes_come_out_as_published(pool, tmp_path):
    cases = published_cases(tmp_path)
    assert len(cases) > 250
    verdicts = MathReward("math_verify", pool=pool).verdicts([case[3] for case in cases], [case[2] for case in cases])
    found = {
        (name, number): verdict.outcome
        for (name, number, _, _, equal), verdict in zip(cases, verdicts, strict=True)
        if (verdict.outcome == "correct") != equal
    }
    assert found.keys() == OTHERWISE.keys(), found
