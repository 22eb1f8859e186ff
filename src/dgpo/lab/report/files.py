"""Writes the page of one or several runs to a file."""

from collections.abc import Sequence
from pathlib import Path

from dgpo.errors import ConfigError, DataError, DgpoError
from dgpo.io import write_atomically
from dgpo.lab.report.page import render_page
from dgpo.lab.runs.reader import read_run

PAGE = "report.html"


def write_report(folders: Sequence[Path], target: Path | None = None) -> None:
    """Write the page of some runs, and print where it is.

    Args:
        folders: Run directories, at least one.
        target: The file; by default `report.html` in the directory of a single run, or in the working directory.

    Raises:
        DgpoError: If a directory holds no run, or the page cannot be written.
    """
    if not folders:
        raise ConfigError("dgpo report needs the directory of a run: `dgpo report runs/quickstart`.")
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run.name) > 1:  # the same name in two places
            run.name = str(folder)
    config = runs[0].config if len(runs) == 1 else {}
    options = [name for name in config if name.startswith("credit_options.")]
    shown = ("task", "model_name_or_path", "credit_rule", "tau", "kappa", *options, "credit_policy", "seed")
    facts = {name.removesuffix("_name_or_path").split(".")[-1]: f"{config[name]}" for name in shown if name in config}
    title = runs[0].name if len(runs) == 1 else " against ".join(run.name for run in runs)
    page = render_page(runs, kind="report", title=title, facts=facts)
    write_page(target or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE)), page)


def write_page(path: Path, page: str) -> None:
    """Write a page and print where it is.

    Args:
        path: The file; its folder is made.
        page: HTML.

    Raises:
        DataError: If `path` is a directory.
        DgpoError: If it cannot be written.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the file, such as -o {path / PAGE}.")
    try:
        write_atomically(path, page)
    except OSError as error:
        raise DgpoError(f"The page {path} cannot be written: {error.strerror}. Name another file with -o.") from error
    print(f"{path} ({len(page) / 1e6:.1f} MB): open it in a browser; it needs no network.")
