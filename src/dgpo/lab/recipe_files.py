"""Where a recipe comes from: a file, or by its name one of those that are installed with the package."""

import re
from pathlib import Path

from dgpo.errors import RecipeError

_HERE = Path(__file__).parent
# In the wheel, recipes/ lies beside this module; an editable install reads that of its checkout.
_FOLDERS = (_HERE / "recipes", _HERE.parents[2] / "recipes")

_VERL = re.compile(r"^(hydra|defaults):|^# @package ", re.MULTILINE)


def installed_recipes() -> dict[str, Path]:
    """Return the recipes that came with the package, by name.

    Returns:
        Name to YAML file; empty if the package was installed without them.

    Example:
        >>> sorted(installed_recipes())
        ['quickstart', 'smollm2-chain-sum']
    """
    for folder in _FOLDERS:
        if files := sorted(folder.glob("*.yaml")):
            return {file.stem: file for file in files}
    return {}


LARGEST_RECIPE = 2**20
"""Characters; the longest recipe that is read."""


def read_recipe_text(path: Path) -> str:
    """Return the text of a recipe.

    Args:
        path: Its file.

    Returns:
        At most `LARGEST_RECIPE` characters.

    Raises:
        RecipeError: If it is longer, or not UTF-8.
        OSError: If it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        try:
            text = file.read(LARGEST_RECIPE + 1)
        except UnicodeDecodeError as error:
            raise RecipeError(f"The recipe {path} is not UTF-8 text ({error.reason}).") from error
    if len(text) > LARGEST_RECIPE:
        raise RecipeError(
            f"The recipe {path} has more than {LARGEST_RECIPE:,} characters; a recipe is a short YAML file. Data belong"
            " into a file of their own, which `task` names."
        )
    return text


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path, or the name of an installed recipe, such as `"quickstart"`.

    Returns:
        The path as given if it is a file; else the installed recipe of that name; else the path, which is not there.

    Raises:
        RecipeError: If it is a configuration of verl, which another command starts, data, or the directory of a run.

    Example:
        >>> find_recipe("quickstart").name
        'quickstart.yaml'
    """
    path = Path(name).expanduser()
    if path.suffix in (".jsonl", ".csv", ".parquet"):
        raise RecipeError(
            f"{path} is a file of data, and `dgpo train` takes a recipe: a YAML file with a line `task: {path}`."
        )
    if (path / "recipe.yaml").is_file():
        raise RecipeError(f"{path} is the directory of a run; continue it with `dgpo train --resume {path}`.")
    if not path.is_file():
        return installed_recipes().get(name, path)
    try:
        is_verls = _VERL.search(read_recipe_text(path)) is not None
    except OSError:
        return path  # reading it as a recipe says what is wrong with it
    if is_verls:
        name = path.stem if path.parent.name == "verl" else "math"
        raise RecipeError(
            f"{path} is a configuration of verl, and `dgpo train` trains with TRL. Start it with `recipes/verl/run.sh "
            f"{name}`; recipes/verl/README.md says how."
        )
    return path
