"""A headless Chromium, driven by the DevTools protocol over a pipe: no driver, no port, no package."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgpo.lab.report.page import render_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """`$CHROMIUM`, or the first of the usual names."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One page of one browser.

    Attributes:
        problems: Uncaught errors, console errors and dialogs since the page was opened: a good page has none.
        requests: Addresses that were asked for since then.
    """

    def __init__(self, executable: str) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="dgpo-browser-")
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        # Chromium reads from 3 and writes to 4; numbers that are surely neither make the copying safe.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (their_in, their_out)]
        os.close(their_in)
        os.close(their_out)
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--hide-scrollbars", "--disable-extensions", "--disable-background-networking", "--disable-sync"),
            *("--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"),
        )

        def connect() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [executable, *options],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in ends:
            os.close(end)
        self._number, self._rest, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._session = None
            self.call("Browser.close", timeout=5)
        with contextlib.suppress(OSError):
            os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, timeout: float = 60, **parameters: Any) -> Any:
        """Send a command and return its result; what happens in between is taken down."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _read(self, deadline: float, method: str) -> Any:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer {method}.")
            part = os.read(self._in, 2**20)
            if not part:
                raise RuntimeError(f"Chromium has gone (exit code {self._process.poll()}) while asked for {method}.")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"])[:2000])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.problems.append(json.dumps(parameters["args"])[:2000])
        elif method == "Log.entryAdded":
            self.problems.append(parameters["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {parameters['message']}")
            self.call("Page.handleJavaScriptDialog", accept=True)
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(
        self, path: Path | str, *, dark: bool = False, width: int = 1280, height: int = 900, fragment: str = ""
    ) -> None:
        """Load a file or an address, and wait until its script is through."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url="about:blank")  # another fragment alone would not load the file again
        self.problems.clear()
        self.requests.clear()
        address = path if isinstance(path, str) else path.resolve().as_uri()
        self.call("Page.navigate", url=address + (f"#{fragment}" if fragment else ""))
        self.wait_for("document.documentElement?.dataset.ready === 'true'")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + 60
        while not self.run(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"It never came about: {condition}; {self.problems}")
            time.sleep(0.05)

    @contextlib.contextmanager
    def inside_frame(self) -> Iterator[None]:
        """Run code in the frame of the page, which has a process of its own."""
        outer, deadline = self._session, time.monotonic() + 60
        frames: list[dict[str, Any]] = []
        while not frames and time.monotonic() < deadline:
            frames = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
        self._session = self.call("Target.attachToTarget", targetId=frames[0]["targetId"], flatten=True)["sessionId"]
        try:
            for domain in ("Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            yield
        finally:
            self._session = outer

    def run(self, code: str) -> Any:
        """Evaluate an expression in the page, and return its value."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def point_at(self, selector: str, index: int = 0) -> None:
        """Move the mouse to the middle of an element."""
        where = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        box = self.run(
            f"(() => {{ const e = {where}; e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const b = e.getClientRects()[0]; return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def enter(self, element_id: str, value: str) -> None:
        """Give a field a value, as somebody does who uses it."""
        self.run(
            f"(() => {{ const e = document.getElementById({element_id!r}); e.value = {value!r};"
            " e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input')); })()"
        )

    def type(self, character: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": character} if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=character, **text)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        options = {"captureBeyondViewport": True} if whole else {}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))


def write(path: Path, runs: list[Any], kind: str = "report") -> Path:
    """Write the page of some runs, and return its file."""
    path.write_text(render_page(runs, kind=kind, title="A page"), encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    return path


def text_of(browser: Browser, selector: str) -> Any:
    """The text of the first element of a selector."""
    return browser.run(f"document.querySelector({selector!r})?.textContent")


def violations(browser: Browser) -> Any:
    """What axe-core finds in the page: for each rule its name and the elements."""
    import axe_core_python as axe

    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.run(f"{script}; 0")
    found = "axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))]))"
    return browser.run(found)
