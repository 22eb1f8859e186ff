"""The wheel in an environment of its own: what a user who installs the package gets."""

import os
import re
import resource
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dgpo

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or shutil.which(ROOT / ".uv" / "bin" / "uv")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="there is no uv")]

RULE = """
def late(stats, *, share):
    mask = stats.completion_mask.float()
    position = mask.cumsum(-1)
    late = 2 * position / (mask.sum(-1, keepdim=True) + 1)
    return (1 - share + share * late) * mask
"""


def run(*command, variables=None, **options):
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = inherited | (variables or {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "leaked" not in done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` folder of a new environment, in which torch and the like are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv")
    binaries = folder / "venv" / "bin"
    run(UV, "pip", "install", "--quiet", "--no-deps", "--python", binaries / "python", wheel)
    (installed,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (installed / "others.pth").write_text("\n".join(site.getsitepackages()))
    return binaries


def test_it_holds_the_package_its_data_and_its_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"dgpo", f"dgpo-{dgpo.__version__}.dist-info"}
    data = ("py.typed", "lab/report/page_files/page.html", "engines/verl/conf/dgpo_trainer.yaml")
    assert {f"dgpo/{name}" for name in data} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shipped = {name.rpartition("/")[2] for name in names if name.startswith("dgpo/lab/recipes/")}
    assert shipped == {path.name for path in (ROOT / "recipes").glob("*.yaml")}


def test_its_description_has_no_link_that_a_package_index_cannot_follow(wheel):
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    description = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "Description-Content-Type: text/markdown" in description
    assert "# DGPO" in description
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", description) == []


@pytest.mark.parametrize("extra", ["", "[trl]", "[lab]", "[verl]", "[docs]"])
def test_what_it_needs_can_be_installed(extra, wheel, tmp_path):
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = ("--python", tmp_path / "venv" / "bin" / "python")
    command = [UV, "pip", "install", "--dry-run", *python, f"dgpo{extra} @ {wheel.as_uri()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode and re.search("error sending request|Failed to fetch|dns error", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    packages = {"[trl]": "trl", "[lab]": "shtab", "[verl]": "verl", "[docs]": "mkdocs"}
    assert f"+ {packages.get(extra, 'torch')}==" in done.stderr
    assert "warning" not in done.stderr.lower()  # an extra that does not exist is no more than a warning


def test_a_base_install_warns_of_nothing(wheel, tmp_path):
    """Where numpy is absent, torch warns at the first tensor."""
    lines = zipfile.ZipFile(wheel).read(f"dgpo-{dgpo.__version__}.dist-info/METADATA").decode().splitlines()
    needed = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert {re.match(r"\w+", line)[0] for line in needed} == {"torch", "numpy"}
    code = "import torch, dgpo; dgpo.redistribution_weights(torch.zeros(1, 2), torch.ones(1, 2, dtype=bool), tau=0.5)"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_the_installed_package_that_is_imported(environment, tmp_path):
    code = "import dgpo, importlib.metadata as m; print(dgpo.__file__, dgpo.__version__, m.version('dgpo'))"
    file, version, recorded = run(environment / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(environment.parent)
    assert version == recorded == dgpo.__version__


def test_the_command_starts_at_once(environment, tmp_path):
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    run(environment / "dgpo", "--version", cwd=tmp_path)  # compiles the modules
    before = used()
    assert run(environment / "dgpo", "--version", cwd=tmp_path) == f"dgpo {dgpo.__version__}"
    assert used() - before < 0.5  # seconds of processor time; importing torch alone takes more


def test_the_quickstart_runs_outside_of_the_checkout(environment, warmed_up, tmp_path):
    options = {"cwd": tmp_path, "variables": {"CUDA_VISIBLE_DEVICES": ""}}
    shown = run(environment / "dgpo", "train", "quickstart", "--max_steps", "4", "--output_dir", "run", **options)
    assert "4 steps" in shown
    run(environment / "dgpo", "report", "run", **options)
    assert "<html" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("name", ["my_rules.py:late", "my_rules:late"])
def test_a_rule_outside_of_the_package_is_found(name, environment, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    code = f"from dgpo.rules import resolve; rule = resolve({name!r}, share=0.5); print(rule, rule.traits.reads)"
    output = run(environment / "python", "-c", code, cwd=tmp_path)
    assert output == f"{name}(share=0.5) ('hellinger_sq', 'ref_logps')"
