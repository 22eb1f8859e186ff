"""How fast the page of `dgpo report` is: two completions of 20,000 tokens each, in a headless Chromium.

    python benchmarks/report_page.py                # writes benchmarks/results/report_page.json

For each width, and each number of tokens: the size of the file, seconds to its first paint, until the page can be used,
until 4,000 more tokens are drawn, and until all tokens that are drawn have another colour. Median and largest of
several loads; the browser is warm. Needs Chromium ($CHROMIUM, or one of the usual names).
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import RESULTS, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "lab" / "report"))

PAINT = """new Promise((done) => {
  const seen = (list) => list.getEntriesByName('first-contentful-paint').forEach((entry) => done(entry.startTime));
  new PerformanceObserver(seen).observe({ type: 'paint', buffered: true });
})"""
READY = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
# From the press of a button to the picture after it.
AFTER = """new Promise((done) => {{
  const start = performance.now();
  {act};
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
}})"""
MORE = AFTER.format(act="document.querySelector('.gap button').click()")
COLOUR = AFTER.format(act="document.querySelector('input[name=measure]:not(:checked)').click()")


def page_of(tokens: int) -> str:
    """Return the page of a right and a wrong completion of so many tokens, with numbers as a training has them."""
    from dgpo.credit_log import CompletionCredit, LoggedStep
    from dgpo.lab.report.page import render_page
    from dgpo.lab.runs.reader import Run

    draw = random.Random(0)

    def completion(advantage: float) -> CompletionCredit:
        words = [draw.choice(["so ", "the ", " = ", "4", "2", " prime", "\\n", "\n", "🙂"]) for _ in range(tokens)]
        columns = {name: [draw.random() for _ in words] for name in ("w", "d", "h", "s", "logp", "log_ratio")}
        places = {
            i: {"policy": [("a", 0.5)] * 5, "reference": [("b", 0.5)] * 5} for i in range(0, tokens, tokens // 64)
        }
        facts = {"group": 0, "answer": "42", "reward": float(advantage > 0), "advantage": advantage}
        return CompletionCredit("prompt", list(range(tokens)), words, **columns, **facts, alternatives=places)

    steps = [LoggedStep(1, {}, [completion(1.0), completion(-1.0)])]
    return render_page([Run("run", steps=steps)], kind="report", title="run")


def main() -> None:
    """Measure, print and write."""
    from browser import Browser, find_chromium

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "report_page.json")
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium; install it, or set CHROMIUM.")
    browser, cases = Browser(executable), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for tokens in options.tokens:
                path = Path(folder) / f"{tokens}.html"
                path.write_text(page_of(tokens), encoding="utf-8")
                for width in (390, 1400):
                    cases.append({"tokens": tokens, "width": width, "megabytes": round(path.stat().st_size / 1e6, 2)})
                    cases[-1] |= measured(browser, path, width, options.repeats)
        version = browser.call("Browser.getVersion")["product"]
    finally:
        browser.close()
    result = {
        "what": "seconds of the page of two completions of so many tokens each",
        "browser": version,
        "cases": cases,
    }
    print(json.dumps(result, indent=2))
    save(options.output, result)


def measured(browser: Any, path: Path, width: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return median and largest seconds of each figure."""
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        browser.open(path, width=width)
        figures = {"first_paint": PAINT, "usable": READY, "more_tokens": MORE, "other_colour": COLOUR}
        if browser.run("document.querySelector('.gap button') === null"):
            del figures["more_tokens"]
        for name, code in figures.items():
            seconds.setdefault(name, []).append(browser.run(code) / 1000)
    return {
        name: {"median": round(statistics.median(values), 3), "largest": round(max(values), 3)}
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
