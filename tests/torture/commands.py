"""`dgpo` in forked children, so that its libraries are loaded once; and what two runs must have in common."""

import gc
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from file_operations import FULL, INTERRUPT, After, Faults, install

from forked import Forked

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = os.environ.get("TORTURE") == "all"
SEED = int(os.environ.get("TORTURE_SEED", "0"))
STEPS = 4
PATIENCE = 300
"""Seconds until a command is taken to hang; it takes two."""
CHECKPOINT = After("replace checksums.json.tmp")
"""Where the first checkpoint of a run is whole."""
EMPTY: Mapping[str, str] = MappingProxyType({})
# What the clock decides.
_TIMES = re.compile(r"seconds|runtime|per_second|generation_share|step_time")


@dataclass
class Ended:
    """How a command ended: its exit code (-9 after SIGKILL), and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class Started:
    """A command in a forked child, and where it prints."""

    process: Forked
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        """Of the child."""
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self.process.signal(number)

    def wait_until_it_stops(self) -> None:
        """Wait until it has stopped at a file operation."""
        while not self.process.is_stopped():
            time.sleep(0.01)

    def ended(self) -> Ended:
        """Wait for its end; one that hangs fails the test and says where it is."""
        code = self.process.wait(PATIENCE)
        if code is None:
            self.process.kill()
        ended = Ended(code, self.out.read_text(), self.err.read_text())
        assert code is not None, f"it hangs: {ended.err[-8000:]}"
        return ended


def _spare() -> None:
    """Leave out, in a child, what takes its time and says nothing about files: pictures, and collecting garbage."""
    from dgpo.lab.evaluation import plots
    from dgpo.lab.train import finish, validate

    def draw(*arguments):
        arguments[-1].write_bytes(b"a picture")
        return True

    plots.draw_pass_at_k = finish.draw_curve = draw
    validate.MINIMUM_FREE_BYTES = 0
    gc.collect = lambda generation=2: 0


def start(
    words,
    folder: Path,
    faults: Faults | None = None,
    *,
    name: str = "",
    variables: Mapping[str, str] = EMPTY,
    first=None,
) -> Started:
    """Start a command in a folder, in a forked child.

    Args:
        words: What stands after `dgpo`.
        folder: The working directory.
        faults: What goes wrong.
        name: Tells this process from others that print beside the same folder.
        variables: Of the environment.
        first: Called in the child, before the command.
    """
    out, err = (folder.with_name(f"{folder.name}{name}.{kind}") for kind in ("out", "err"))
    command = partial(_be_command, [str(word) for word in words], folder, faults, first)
    return Started(Forked(command, variables, out, err), out, err)


def _be_command(words: list[str], folder: Path, faults: Faults | None, first) -> int:
    from dgpo.lab.cli.main import main

    os.chdir(folder)
    _spare()
    if faults is not None:
        install(faults)
    if first is not None:
        first()
    return main(words)


def dgpo(words, folder: Path, faults: Faults | None = None, first=None) -> Ended:
    """Run a command in a folder, in a forked child, under faults."""
    return start(words, folder, faults, first=first).ended()


def training(model, *more) -> list[str]:
    """The words of a short run: 4 steps, a checkpoint after every second one, of which one is kept."""
    return [
        *("train", RECIPES / "quickstart.yaml", "--output_dir=run", f"--model_name_or_path={model}"),
        *("--task_args={num_forks: 1, size: 8}", "--max_steps=-1", "--num_train_epochs=1", "--eval_size=4"),
        *("--num_generations=4", "--per_device_train_batch_size=8", "--per_device_eval_batch_size=4"),
        *("--max_completion_length=9", "--save_steps=2", "--save_total_limit=1", "--credit_log_steps=1"),
        *("--logging_steps=1", "--eval_strategy=steps", "--eval_steps=3", *more),
    ]


def evaluation(model) -> list[str]:
    """The words of a short evaluation: 6 problems, 4 completions of each, 5 batches."""
    task = ("--task=forks", "--task-args={num_forks: 1}", "--limit=6", "--n=4", "--batch-size=5", "--max-tokens=9")
    return ["eval", str(model), *task, "--output=measured"]


def facts_of_run(run: Path) -> dict[str, object]:
    """What must be equal in two runs of one recipe, whatever happened to them: weights bit for bit, metrics, credit."""
    facts: dict[str, object] = {}
    for file in [
        *run.glob("final/*"),
        *run.glob(f"checkpoint-{STEPS}/**/*"),
        *run.glob("co*/*"),
        *run.glob("credit/*"),
    ]:
        # The arguments of a run name its moment; the sums of a checkpoint and the trainer's state hold times.
        if file.is_file() and file.name not in (
            "training_args.bin",
            "checksums.json",
            "trainer_state.json",
            "README.md",
        ):
            facts[str(file.relative_to(run))] = hashlib.sha256(file.read_bytes()).hexdigest()
    facts["final/README.md"] = (run / "final" / "README.md").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    facts["metrics"] = [_without_times(line) for line in lines]
    facts["summary"] = _without_times(json.loads((run / "summary.json").read_text()))
    facts["curve"] = (run / "curve.png").is_file()
    facts["left"] = sorted(path.name for path in run.rglob("*") if path.name.endswith((".tmp", ".partial", ".lock")))
    return facts


def facts_of_evaluation(folder: Path) -> dict[str, object]:
    """What must be equal in two evaluations: everything but the picture, byte for byte."""
    facts: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".png"}
    return facts | {"picture": (folder / "pass_at_k.png").is_file()}


def _without_times(mapping: dict) -> dict:
    return {name: value for name, value in mapping.items() if not _TIMES.search(name)}


def continue_training(words, folder: Path) -> str:
    """Go on as the messages advise, after whatever happened; return how: resumed, begun again or complete."""
    run = folder / "run"
    resumed = dgpo(["train", "--resume", "run"], folder) if (run / "recipe.yaml").exists() else None
    if resumed is not None and resumed.code == 0:
        return "resumed"
    if resumed is not None and "is complete (4 steps)" in resumed.err:
        return "complete"
    assert resumed is None or "holds no complete checkpoint" in resumed.err, resumed
    again = dgpo(words, folder)
    if again.code == 2 and "is not empty. It holds no checkpoint to resume from; delete it" in again.err:
        steps_made = (
            '"train"' in (run / "metrics.jsonl").read_text() or (run / "completions/step-000002.jsonl").exists()
        )
        assert steps_made  # nothing else may cost a new directory
        shutil.rmtree(run)
        again = dgpo(words, folder)
    assert again.code == 0, again
    return "begun again"


def check_message(ended: Ended, kind: str) -> None:
    """What a person reads after a fault: one message, no traceback, that says what happened and how to go on."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    if kind == INTERRUPT and ended.code == 130:
        assert re.match(r"dgpo: Interrupted\b", ended.err), ended.err
    elif kind == FULL and ended.code:
        assert ended.code in (1, 2), ended
        assert "No space left" in ended.err or "disk is full" in ended.err, ended.err
    else:
        assert ended.code == 0, ended  # the credit log, and what is cleared away, stop no run


def chosen(cases, shard: int, shards: int, few: int, name: str) -> list:
    """A shard's part of all cases, or of a few that the seed draws."""
    cases = list(cases)
    if not ALL:
        cases = sorted(random.Random(f"{SEED} {name}").sample(cases, min(few, len(cases))))
    return cases[shard::shards]
