"""The page of a run inside of a notebook."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgpo.lab.report.files import read_runs, report_contents
from dgpo.lab.report.page import page_around
from dgpo.lab.runs.reader import Run


class ShownRuns:
    """What `show` returns: a notebook draws it, everywhere else it is a line of text.

    Args:
        runs: One run, or several side by side.
        height: Of the frame, in pixels.
    """

    def __init__(self, runs: Sequence[Run], height: int) -> None:
        self._runs, self._height = list(runs), height

    def _repr_html_(self) -> str:
        # A frame with an origin of its own: it reaches neither the notebook nor its cookies, and opens nothing.
        page = html.escape(page_around(report_contents(self._runs)), quote=True)
        style = "width: 100%; border: 0; color-scheme: light dark"
        return (
            f'<iframe sandbox="allow-scripts" title="The credit of each token" height="{self._height}" style="{style}"'
            f' srcdoc="{page}"></iframe>'
        )

    def __repr__(self) -> str:
        logged = ", ".join(f"{run.name} ({len(run.steps)} logged steps)" for run in self._runs)
        return f"<the credit of {logged}; a notebook shows the page>"


def show(*runs: Any, height: int = 900) -> ShownRuns:
    """Return the page of `dgpo report` as an object that a notebook draws below its cell.

    The page is inside of the notebook then, up to 5 MB of it: it stays when the notebook is saved, and needs neither
    the run nor the network.

    Args:
        *runs: Directories of runs, or trainers, whose `args.output_dir` is taken. Several are laid side by side.
        height: Of the frame, in pixels, 100 or more.

    Returns:
        The object; it is read from the disk once, when this is called.

    Raises:
        DgpoError: If a directory holds no run.
        ValueError: If `height` is below 100.

    Example:
        >>> show("runs/nowhere")
        Traceback (most recent call last):
        dgpo.errors.DataError: runs/nowhere: there is no such directory. Give the directory of a run, ...
    """
    if height < 100:
        raise ValueError(f"height={height}: nothing can be seen in so low a frame; take 100 pixels or more.")
    folders = [Path(run.args.output_dir if hasattr(run, "args") else run).expanduser() for run in runs]
    return ShownRuns(read_runs(folders), height)
