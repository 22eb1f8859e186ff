"""Makes the pictures of the report in docs/figures: real runs, seen by a headless Chromium.

    python docs/screenshots.py               # trains what is not there yet, then takes the pictures
    python docs/screenshots.py --only train  # or one of the two

The runs: the quickstart recipe with the paper's rule at a sharp temperature and with GRPO's even weights, two seeds
each, and SmolLM2-135M-Instruct (`make smollm2`) with LoRA. They are short: pictures of the page, not results.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
SEEDS = (0, 1)
RULES = {"dgpo": ("--credit_rule=dgpo", "--tau=0.05"), "even": ("--credit_rule=even",)}
FORKS = {
    f"forks-{rule}-seed{seed}": ["quickstart.yaml", *options, f"--seed={seed}", "--max_steps=100", "--eval_size=128"]
    for seed in SEEDS
    for rule, options in RULES.items()
}
SHORT = (
    "--max_steps=12",
    "--per_device_train_batch_size=16",
    "--eval_size=16",
    "--credit_log_steps=4",
    "--dtype=float32",
)
SMOLLM2 = {"smollm2-chain-sum": ["smollm2-chain-sum.yaml", *SHORT]}
MOST_BYTES = 300_000


def train(runs: Path) -> None:
    """Train each run whose directory holds no summary yet."""
    for name, (recipe, *options) in {**FORKS, **SMOLLM2}.items():
        if (runs / name / "summary.json").is_file():
            continue
        two_groups = ["--credit_log_completions=16"]
        command = [sys.executable, "-m", "dgpo.lab.cli.main", "train", str(ROOT / "recipes" / recipe), *options]
        subprocess.run([*command, *two_groups, "--save_strategy=no", f"--output_dir={runs / name}"], check=True)


def take(runs: Path) -> None:
    """Take the pictures, each below 300 kB."""
    sys.path.insert(0, str(ROOT / "tests" / "lab" / "report"))
    from browser import Browser, find_chromium

    from dgpo.lab.report.files import write_report

    pages = {"forks": ["forks-dgpo-seed0"], "rules": list(FORKS), "smollm2": list(SMOLLM2)}
    for page, names in pages.items():
        write_report([runs / name for name in names], runs / f"{page}.html")
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium; install it, or set CHROMIUM.")
    browser = Browser(executable)

    def picture(name: str, page: str, prepare: Callable[[], None] | None = None, **view: int | bool) -> None:
        browser.open(runs / f"{page}.html", **view)
        if prepare is not None:
            prepare()
        target = FIGURES / f"{name}.png"
        browser.screenshot(target)
        size = target.stat().st_size
        print(f"{target.relative_to(ROOT)}: {size / 1000:.0f} kB")
        if size > MOST_BYTES:
            sys.exit(f"{target.name} is too large; make it lower.")

    def scroll_to(selector: str) -> None:
        browser.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'start', behavior: 'instant'}})")

    def point_at_the_largest_weight() -> None:
        browser.enter("by-order", "share")
        largest = "(a, b) => (b.entry.completion.w[b.index] > a.entry.completion.w[a.index] ? b : a)"
        spans = "[...document.querySelectorAll('.card')[1].querySelectorAll('.t')]"
        browser.run(f"{spans}.reduce({largest}).focus({{preventScroll: true}})")
        scroll_to(".legend")
        browser.run("new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100))")

    try:
        wide = {"width": 1280}
        picture("credit-report", "forks", point_at_the_largest_weight, height=760, **wide)
        picture("credit-report-rules", "rules", height=700, **wide)
        picture("credit-report-beside", "rules", lambda: scroll_to(".group"), height=640, **wide)
        picture("credit-report-seeds", "rules", lambda: scroll_to("#curves"), height=560, **wide)
        picture("credit-report-smollm2", "smollm2", point_at_the_largest_weight, height=760, dark=True, **wide)
        picture("credit-report-small", "smollm2", lambda: scroll_to(".group"), width=390, height=700)
    finally:
        browser.close()


def main() -> None:
    """Train, then take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "screenshots", help="where the runs are")
    parser.add_argument("--only", choices=("train", "take"), help="one of the two parts")
    options = parser.parse_args()
    for name, part in {"train": train, "take": take}.items():
        if options.only in (None, name):
            part(options.runs)


if __name__ == "__main__":
    main()
