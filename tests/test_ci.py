"""What continuous integration does about a browser and a vLLM that a machine may lack."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"


@pytest.fixture
def commands(tmp_path):
    """A folder of commands, the only one on the path; `make` says what it was told and fails for target `$FAILS`."""

    def add(name, script):
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    add("make", 'echo "make $1: ${DGPO_NEEDS_BROWSER:-unset}"; [ "$1" != "$FAILS" ]')
    return tmp_path, add


def run(folder, fails="nothing"):
    environment = {name: value for name, value in os.environ.items() if name not in ("CHROMIUM", "DGPO_NEEDS_BROWSER")}
    environment |= {"PATH": str(folder), "FAILS": fails}
    done = subprocess.run([shutil.which("bash"), str(RUN)], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_where_a_browser_is_there_skipping_its_tests_is_a_failure(commands):
    folder, add = commands
    add("chromium", "true")
    assert run(folder) == (0, ["make test: 1", "make vllm-wheel: 1", "make test-vllm: 1"], "")


def test_a_browser_that_is_installed_counts(commands):
    folder, add = commands
    add("apt-get", f'if [ "$1" = install ]; then : > {folder}/chromium; /bin/chmod +x {folder}/chromium; fi')
    assert run(folder)[1][0] == "make test: 1"


def test_without_a_browser_it_is_said_loudly(commands):
    folder, add = commands
    add("apt-get", "exit 1")
    code, output, errors = run(folder)
    assert (code, output[0]) == (0, "make test: unset")
    assert "NOT TESTED IN A BROWSER" in errors


def test_where_there_is_no_wheel_of_vllm_it_is_said_loudly(commands):
    folder, add = commands
    add("chromium", "true")
    code, output, errors = run(folder, fails="vllm-wheel")
    assert (code, output[-1]) == (0, "make vllm-wheel: 1")
    assert "SAMPLING WITH vLLM IS NOT TESTED" in errors


@pytest.mark.parametrize("target", ["test", "test-vllm"])
def test_tests_that_fail_fail_the_run(commands, target):
    folder, add = commands
    add("chromium", "true")
    code, output, _ = run(folder, fails=target)
    assert code != 0
    assert output[-1].startswith(f"make {target}:")
