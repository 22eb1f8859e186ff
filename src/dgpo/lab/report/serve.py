"""Gives out the page of runs while they train, to browsers of this machine alone.

Two addresses exist: the page, and its data, which the page asks for again and again. No file is given out. The server
listens on the loopback interface, and answers only those who call it by a name of this machine: a page of somebody
else's, whose name suddenly means 127.0.0.1 (DNS rebinding), is refused.
"""

import gzip
import hashlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgpo.errors import ConfigError, DataError, DgpoError
from dgpo.lab.foreign_text import say
from dgpo.lab.report.files import open_in_browser, read_runs, report_contents
from dgpo.lab.report.page import page_around
from dgpo.lab.report.page_data import embedded_json
from dgpo.lab.runs.reader import Run, run_files

ADDRESS, PORT = "127.0.0.1", 8321
SECONDS = 2.0
"""Between two questions of the page."""

_SHARE = 10  # the data are made anew at most every so many times the seconds that it takes
_NAMES = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class LivePage:
    """The newest page of some runs; what it takes to make one bounds how often that happens.

    Args:
        folders: Run directories.
        seconds: Between two questions of the page.
    """

    def __init__(self, folders: Sequence[Path], seconds: float = SECONDS) -> None:
        self.folders, self.seconds = list(folders), seconds
        self._lock = threading.Lock()
        self._state: list[dict[str, tuple[int, int]]] = []
        self._contents: dict[str, Any] = {}
        self._tag, self._data, self._rest_until = "", b"", 0.0
        self._make()

    def page(self) -> bytes:
        """Return the page with the newest data."""
        with self._lock:
            self._refresh()
            return page_around(self._contents, live={"seconds": self.seconds, "tag": self._tag}).encode()

    def data(self) -> tuple[str, bytes]:
        """Return a tag that names the newest data, and the data as JSON."""
        with self._lock:
            self._refresh()
            return self._tag, self._data

    def _refresh(self) -> None:
        if time.monotonic() < self._rest_until:
            return
        try:
            self._make()
        except (DgpoError, OSError) as error:  # such as a directory that was deleted: what was read stays
            say(f"dgpo: {error}", sys.stderr)
            self._rest_until = time.monotonic() + 60

    def _make(self) -> None:
        started = time.monotonic()
        state = [run_files(folder) for folder in self.folders]
        if state == self._state or (any(self._state) and not any(state)):  # nothing new, or all was deleted
            return
        if any(state):
            self._contents = report_contents(
                read_runs([f for f, files in zip(self.folders, state, strict=True) if files])
            )
        else:
            run = Run(self.folders[0].resolve().name, notes=["Nothing is logged yet. The page follows the run."])
            self._contents = report_contents([run])
        text = embedded_json(self._contents)
        self._tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
        live = embedded_json({"seconds": self.seconds, "tag": self._tag})
        self._data = f'{text[:-1]},"live":{live}}}'.encode()
        self._state = state
        self._rest_until = time.monotonic() + _SHARE * (time.monotonic() - started)


def make_server(page: LivePage, port: int | None = None) -> ThreadingHTTPServer:
    """Return a server that listens; `serve_forever` makes it answer.

    Args:
        page: What it gives out.
        port: Where; by default 8321, or any free port where that is taken.

    Returns:
        The server; its address is in `server_address`.

    Raises:
        ConfigError: If the port is taken or may not be used.
    """

    class Handler(_Handler):
        live = page

    try:
        return _Server((ADDRESS, PORT if port is None else port), Handler)
    except OSError as error:
        if port is None:
            return _Server((ADDRESS, 0), Handler)
        raise ConfigError(f"Port {port} cannot be used ({error.strerror}); name another with --port.") from error


def serve(folders: Sequence[Path], *, port: int | None = None, open_it: bool = False) -> None:
    """Give out the page of some runs until Ctrl-C, and print its address.

    Args:
        folders: Run directories, at least one; a run that has just started may be empty.
        port: Of the loopback interface; by default 8321, or any free one where that is taken.
        open_it: Open the page in the browser.

    Raises:
        DgpoError: If there is no such directory, or the port is taken.
    """
    if not folders:
        raise ConfigError("dgpo report needs the directory of a run: `dgpo report runs/quickstart --serve`.")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"{folder}: there is no such directory. Give the directory of a run, such as runs/quickstart."
            )
    with make_server(LivePage(folders), port) as server:
        address = f"http://{ADDRESS}:{server.server_address[1]}/"
        say(f"{address} shows the run as it trains, to users of this machine alone; Ctrl-C ends it.")
        if open_it:  # in a thread: a browser in the terminal comes back when it is closed
            threading.Thread(target=open_in_browser, args=(address,), daemon=True).start()
        with _ending_at_ctrl_c(server):
            server.serve_forever()
        say("Stopped.")


@contextmanager
def _ending_at_ctrl_c(server: ThreadingHTTPServer) -> Iterator[None]:
    """End the server at Ctrl-C by its own request, as an exception may be lost where Python ignores them."""

    def end(*_: Any) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    previous = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, but not that a browser has closed its page."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    live: LivePage
    timeout = 30

    def version_string(self) -> str:
        return "dgpo"

    def do_GET(self) -> None:
        if not _is_this_machine(self.headers.get_all("Host") or []):
            return self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"Open this page by the address that dgpo printed.\n")
        path = urlsplit(self.path).path
        if path == "/":
            return self._answer(HTTPStatus.OK, self.live.page(), "text/html; charset=utf-8")
        if path != "/data":
            return self._answer(HTTPStatus.NOT_FOUND, b"There is nothing but the page.\n")
        tag, data = self.live.data()
        if self.headers.get("If-None-Match") == tag:
            return self._answer(HTTPStatus.NOT_MODIFIED, b"", tag=tag)
        return self._answer(HTTPStatus.OK, data, "application/json", tag=tag)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8", tag: str = "") -> None:
        headers = {**_HEADERS, "Content-Type": kind, **({"ETag": tag} if tag else {})}
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 10_000:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing: a question comes every two seconds."""


def _is_this_machine(hosts: list[str]) -> bool:
    """Whether a request names this machine, at any port: a tunnel may have another one."""
    if len(hosts) != 1:
        return False
    try:
        return urlsplit(f"//{hosts[0]}").hostname in _NAMES
    except ValueError:
        return False
