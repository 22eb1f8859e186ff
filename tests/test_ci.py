"""What continuous integration does about the browser that the report's page is tested in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"


@pytest.fixture
def commands(tmp_path):
    """A folder of commands, the only one on the path; `make` says what it was told about the browser."""

    def add(name, script):
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    add("make", 'echo "make $1: ${DGPO_NEEDS_BROWSER:-unset}"')
    return tmp_path, add


def run(folder):
    environment = {name: value for name, value in os.environ.items() if name not in ("CHROMIUM", "DGPO_NEEDS_BROWSER")}
    bash = shutil.which("bash")
    command = [bash, str(RUN)]
    done = subprocess.run(command, env={**environment, "PATH": str(folder)}, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def test_where_a_browser_is_there_skipping_its_tests_is_a_failure(commands):
    folder, add = commands
    add("chromium", "true")
    assert run(folder) == ("make test: 1", "")


def test_a_browser_that_is_installed_counts(commands):
    folder, add = commands
    add("apt-get", f'if [ "$1" = install ]; then : > {folder}/chromium; /bin/chmod +x {folder}/chromium; fi')
    assert run(folder)[0] == "make test: 1"


def test_without_a_browser_it_is_said_loudly(commands):
    folder, add = commands
    add("apt-get", "exit 1")
    output, errors = run(folder)
    assert output == "make test: unset"
    assert "NOT TESTED IN A BROWSER" in errors
