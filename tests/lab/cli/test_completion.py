"""`dgpo completion`: the script completes what the parsers know."""

import shutil
import subprocess

import pytest

from dgpo.lab.cli.commands import COMMANDS
from dgpo.lab.cli.main import main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "dgpo.bash"
    with pytest.MonkeyPatch.context() as patch, open(path, "w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["eva"], {"eval"}),
        ([""], set(COMMANDS)),
        (["train", "--credit_p"], {"--credit_policy"}),
        (["train", "--loss_type", "da"], {"dapo"}),
        (["eval", "--ba"], {"--batch-size", "--backend"}),
        (["eval", "--dtype", "b"], {"bfloat16"}),
        (["completion", ""], {"bash", "zsh", "tcsh"}),
    ],
)
def test_bash_completes(typed, expected, script, tmp_path):
    words = " ".join(f"'{word}'" for word in ("dgpo", *typed))
    code = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_dgpo; echo ${{COMPREPLY[@]}}"
    done = subprocess.run([shutil.which("bash"), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_too(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "verl-data" in capsys.readouterr().out


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "cmd"]) == 2
    assert "choose from" in capsys.readouterr().err
