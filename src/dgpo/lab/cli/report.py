"""`dgpo report RUN [RUN ...]`: what a run did, and the credit of each token, as one page."""

from collections.abc import Sequence
from pathlib import Path

from dgpo.errors import DataError, DgpoError, RecipeError

PAGE = "report.html"


def report(words: Sequence[str]) -> int:
    """Write the page, print where it is, and return the exit code.

    Args:
        words: The words after `dgpo report`: run directories and `-o FILE`.

    Returns:
        0.

    Raises:
        DgpoError: If a directory holds no run, or the page cannot be written.
    """
    folders, target = _sort(words)
    from dgpo.lab.report.page import render_page
    from dgpo.lab.runs.reader import read_run

    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run.name) > 1:  # the same name in two places
            run.name = str(folder)
    one = runs[0].config if len(runs) == 1 else {}
    options = [name for name in one if name.startswith("credit_options.")]
    shown = ("task", "model_name_or_path", "credit_rule", "tau", "kappa", *options, "credit_policy", "seed")
    facts = {name.removesuffix("_name_or_path").split(".")[-1]: f"{one[name]}" for name in shown if name in one}
    title = runs[0].name if len(runs) == 1 else " against ".join(run.name for run in runs)
    page = render_page(runs, kind="report", title=title, facts=facts)
    write_page(target or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE)), page)
    return 0


def write_page(path: Path, page: str) -> None:
    """Write a page and say where it is.

    Args:
        path: The file; its folder is made.
        page: HTML.

    Raises:
        DataError: If `path` is a directory.
        DgpoError: If it cannot be written.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the file, such as -o {path / PAGE}.")
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DgpoError(f"The page {path} cannot be written: {error.strerror}. Name another file with -o.") from error
    print(f"{path} ({len(page) / 1e6:.1f} MB): open it in a browser; it needs no network.")


def _sort(words: Sequence[str]) -> tuple[list[Path], Path | None]:
    folders: list[Path] = []
    target: Path | None = None
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            folders.append(Path(word).expanduser())
        elif name not in ("-o", "--output"):
            raise RecipeError(f"dgpo report has no option {name}; it has -o FILE.")
        elif not equals and not rest:
            raise RecipeError(f"{name} needs a file, such as {name} page.html.")
        else:
            target = Path(value if equals else rest.pop(0)).expanduser()
    if not folders:
        raise RecipeError("dgpo report needs the directory of a run: `dgpo report runs/quickstart`.")
    return folders, target
