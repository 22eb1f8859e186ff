"""The wheel in an environment of its own: what a user who installs the package gets."""

import os
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


def run(*command, **options):
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
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


@pytest.mark.parametrize("name", ["my_rules.py:late", "my_rules:late"])
def test_a_rule_outside_of_the_package_is_found(name, environment, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    code = f"from dgpo.rules import resolve; rule = resolve({name!r}, share=0.5); print(rule, rule.traits.reads)"
    output = run(environment / "python", "-c", code, cwd=tmp_path)
    assert output == f"{name}(share=0.5) ('hellinger_sq', 'ref_logps')"
