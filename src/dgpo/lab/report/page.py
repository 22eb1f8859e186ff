"""One self-contained HTML page: it opens from the disk, needs no network, and runs no code but its own.

Nothing of a completion is ever markup: all data stand in one JSON block, and the page puts them in as text.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from dgpo.lab.report.differences import config_differences, seed_bands, seed_figures
from dgpo.lab.report.page_data import embedded_json, fitted_runs
from dgpo.lab.runs.reader import Run
from dgpo.versions import __version__

SCRIPTS = (
    *("base.js", "measures.js", "selection.js", "tip.js", "cards.js", "controls.js", "side.js"),
    *("curves.js", "settings.js", "live.js", "start.js"),
)
"""The files of the page's script, which is all of them one after another."""


def render_page(
    runs: Sequence[Run],
    *,
    kind: str,
    title: str,
    facts: dict[str, str] | None = None,
    live: dict[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        runs: One run, or several side by side.
        kind: `"report"`, or `"inspect"` for text that no run made.
        title: The heading.
        facts: What to say below it.
        live: Of a page that a server gives out: `seconds` between two questions for newer data, and the `tag` of these.
            Such a page may ask its server, and nobody else; others may not ask anybody.

    Returns:
        HTML, below 5 MB.

    Example:
        >>> page = render_page([Run("one")], kind="report", title="</title><script>alert(1)</script>")
        >>> "<script>alert" in page, "connect-src" in page
        (False, False)
    """
    return page_around(page_contents(runs, kind=kind, title=title, facts=facts), live=live)


def page_contents(runs: Sequence[Run], *, kind: str, title: str, facts: dict[str, str] | None = None) -> dict[str, Any]:
    """Return all that a page shows, as plain values; the arguments are those of `render_page`."""
    return {
        "kind": kind,
        "title": title,
        "facts": list((facts or {}).items()),
        "runs": fitted_runs(runs),
        "differences": config_differences(runs),
        "bands": [{**band, "figures": seed_figures([runs[i] for i in band["runs"]])} for band in seed_bands(runs)],
        "version": __version__,
    }


def page_around(contents: dict[str, Any], *, live: dict[str, Any] | None = None) -> str:
    """Return the page of what `page_contents` gave.

    Args:
        contents: What it shows.
        live: As for `render_page`.

    Returns:
        HTML.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    files = resources.files("dgpo.lab.report").joinpath("page_files")
    style = files.joinpath("page.css").read_text("utf-8")
    script = "\n".join(files.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    template = Environment(autoescape=True).from_string(files.joinpath("page.html").read_text("utf-8"))
    # Marked as safe: our own files, and JSON without a single `<`.
    return template.render(
        title=contents["title"],
        version=__version__,
        live=live is not None,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded_json({**contents, "live": live})),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
