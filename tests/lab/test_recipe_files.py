"""Recipes that are found by name, and files that another command starts."""

import re
from pathlib import Path

import pytest

from dgpo.errors import RecipeError
from dgpo.lab import recipe_files
from dgpo.lab.cli.commands import parse_train
from dgpo.lab.cli.main import main
from dgpo.lab.recipe_files import find_recipe, installed_recipes

ROOT = Path(__file__).parents[2]
OF_VERL = sorted(path for path in (ROOT / "recipes" / "verl").rglob("*.yaml"))


def test_every_recipe_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert set(installed_recipes()) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    for name, path in installed_recipes().items():
        assert parse_train([name, "--max_steps", "4"]).recipe == path


def test_a_file_here_comes_before_an_installed_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("task: forks\n")
    assert find_recipe("quickstart") == Path("quickstart")


def test_without_installed_recipes_a_name_is_a_path(monkeypatch, tmp_path):
    monkeypatch.setattr(recipe_files, "_FOLDERS", (tmp_path,))
    assert find_recipe("quickstart") == Path("quickstart")


def test_a_misspelt_name_gets_the_nearest_one(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "quikstart"]) == 2
    assert capsys.readouterr().err == "dgpo: There is no recipe at quikstart. Did you mean 'quickstart'?\n"


@pytest.mark.parametrize("path", OF_VERL, ids=lambda path: path.stem)
def test_a_configuration_of_verl_names_the_command_that_starts_it(path):
    with pytest.raises(RecipeError, match=re.escape("is a configuration of verl")) as caught:
        find_recipe(str(path))
    command = re.search(r"`recipes/verl/run.sh (\w+)`", str(caught.value))[1]
    assert (ROOT / "recipes" / "verl" / f"{command}.yaml").is_file()
