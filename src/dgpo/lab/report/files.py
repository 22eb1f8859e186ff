"""Writes the page of one or several runs to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError, DgpoError
from dgpo.io import write_atomically
from dgpo.lab.foreign_text import say
from dgpo.lab.report.page import page_around, page_contents
from dgpo.lab.runs.reader import Run, read_run

PAGE = "report.html"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs of some directories, with different names.

    Args:
        folders: Run directories, at least one.

    Returns:
        One run a directory.

    Raises:
        DgpoError: If there is none, or a directory holds no run.
    """
    if not folders:
        raise ConfigError("dgpo report needs the directory of a run: `dgpo report runs/quickstart`.")
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run.name) > 1:  # the same name in two places
            run.name = str(folder)
    return runs


def report_contents(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the page of some runs shows, with its title and the settings below it, as plain values."""
    config = runs[0].config if len(runs) == 1 else {}
    options = [name for name in config if name.startswith("credit_options.")]
    shown = ("task", "model_name_or_path", "credit_rule", "tau", "kappa", *options, "credit_policy", "seed")
    facts = {name.removesuffix("_name_or_path").split(".")[-1]: f"{config[name]}" for name in shown if name in config}
    title = " against ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    return page_contents(runs, kind="report", title=title, facts=facts)


def write_report(folders: Sequence[Path], target: Path | None = None, *, open_it: bool = False) -> None:
    """Write the page of some runs, and print where it is.

    Args:
        folders: Run directories, at least one.
        target: The file; by default `report.html` in the directory of a single run, or in the working directory.
        open_it: Open the page in the browser.

    Raises:
        DgpoError: If a directory holds no run, or the page cannot be written.
    """
    page = page_around(report_contents(read_runs(folders)))
    path = target or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    write_page(path, page)
    if open_it:
        open_in_browser(path.resolve().as_uri())


def open_in_browser(address: str) -> None:
    """Open an address in the browser, and print what to do where there is none."""
    import webbrowser

    if not webbrowser.open(address):
        say(f"No browser could be opened here; open {address} yourself.")


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
    say(f"{path} ({len(page) / 1e6:.1f} MB): open it in a browser; it needs no network.")
