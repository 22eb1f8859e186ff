"""Two revisions side by side: a training step by the code of another revision and by this one, taken in turns.

    make bench-compare REV=HEAD~10
    python benchmarks/compare.py main --rounds 5 --options "--dtype bfloat16 --contenders dgpo grpo_kl_ours"

The other revision is checked out into a git worktree in a temporary folder, which is removed afterwards. Each round
starts one process of either, each with its own package and its own `benchmarks/train_step.py`, and the two take turns
in going first: what disturbs the machine for a while disturbs both. Installed libraries are the same for both.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import ratios, spread

HERE = Path(__file__).resolve().parent.parent
DEFAULT = "--generate 0 --repeats 1 --contenders dgpo grpo_kl_ours"


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yield a folder with the files of a revision."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if not commit:
        raise SystemExit(f"{revision!r} is no revision of this repository. Name a commit, a branch or a tag.")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def measure(tree: Path, options: list[str]) -> dict[str, Any]:
    """Return what a revision's own benchmark of a training step finds, by its own package."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "benchmarks/train_step.py", *options, "--save", str(found)]
        environment = os.environ | {"PYTHONPATH": str(tree / "src")}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)} failed in {tree}:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(found.read_text())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--options", default="", help=f"more options of train_step.py, after {DEFAULT}")
    arguments = parser.parse_args()
    options = shlex.split(DEFAULT) + shlex.split(arguments.options)
    with checked_out(arguments.revision) as tree:
        trees = {arguments.revision: tree, "here": HERE}
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for round_ in range(arguments.rounds):
            for name in list(trees)[:: 1 if round_ % 2 == 0 else -1]:
                print(f"round {round_ + 1} of {arguments.rounds}: {name} ...", file=sys.stderr, flush=True)
                rounds[name].append(measure(trees[name], options))
    for contender in rounds["here"][0]["seconds"]:
        seconds = {
            name: [statistics.median(found["seconds"][contender]) for found in each] for name, each in rounds.items()
        }
        over = spread(ratios(seconds, "here", arguments.revision))
        peaks = {
            name: statistics.median(found["peak_mib"][contender] for found in each) for name, each in rounds.items()
        }
        print(
            f"{contender:15} {arguments.revision} {statistics.median(seconds[arguments.revision]):.3f} s,"
            f" {peaks[arguments.revision]:.0f} MiB; here {statistics.median(seconds['here']):.3f} s,"
            f" {peaks['here']:.0f} MiB; here / {arguments.revision}"
            f" {over['median']:.2f} ({over['min']:.2f} to {over['max']:.2f})"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed then as well
    main()
