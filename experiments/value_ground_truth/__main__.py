"""Measures where value changes: `python -m experiments.value_ground_truth --model M --task T`; a killed run goes on."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from experiments.harness import CACHE
from experiments.provenance import command_record, write_json
from experiments.value_ground_truth.measure import Models, Settings, measured
from experiments.value_ground_truth.page import table_of
from experiments.value_ground_truth.questions import Questions, load_questions
from experiments.value_ground_truth.sampling import Continuations
from experiments.value_ground_truth.summary import summarize
from experiments.value_ground_truth.worked import WORKED

RESULTS = Path(__file__).parent / "results" / "value_ground_truth.json"
_HELP = {
    "model": "folder, hub id, or folder of an adapter: whose completions and values these are",
    "reference": "what is shown hints, and what the model is compared with; the model itself by default",
    "task": f"{' or '.join(WORKED)} (worked examples as plain text), or what dgpo train --task takes",
    "questions": "how many",
    "completions": "of each question",
    "every": "tokens between two prefixes whose value is measured",
    "continuations": "of each prefix; its value is the share of them that is right",
    "max_tokens": "longest completion",
    "dtype": "auto, float32 or bfloat16",
    "batch_size": "rows at once while sampling",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, question by question, and print the table.

    Args:
        arguments: Of the command line by default.

    Returns:
        0.
    """
    options = _options(arguments)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    folder = options.out or CACHE / "value_ground_truth" / _name(settings)
    rows = _rows(folder, settings)
    if len(rows) < settings.questions:
        _measure(folder, settings, rows, quiet=options.quiet)
    summary = {"settings": asdict(settings), "record": command_record(), **summarize(rows, settings.continuations)}
    write_json(folder / "summary.json", summary)
    print(table_of(summary))
    print(f"\nEverything that was measured: {folder / 'questions.jsonl'}")
    if options.commit:
        committed = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        write_json(RESULTS, dict(sorted((committed | {options.commit: summary}).items())))
        print(f"Written to {RESULTS} as {options.commit!r}; `python -m experiments.page` shows it.")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Where does the value of a completion change, and which signals know it? Completions are cut every "
        "few tokens, and the value of each prefix is the share of its continuations that is right. What is measured "
        "of a question is on the disk before the next one begins: the same command goes on, with more questions, too."
    )
    for field in fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        default = {"model": None, "reference": None, "task": None}.get(field.name, field.default)
        kind = int if isinstance(field.default, int) else str
        required = field.name in ("model", "task")
        parser.add_argument(flag, type=kind, default=default, required=required, help=_HELP.get(field.name))
    parser.add_argument("--out", type=Path, help="folder of the measurements; below runs/experiments by default")
    parser.add_argument("--commit", metavar="NAME", help="write the summary to the committed results by this name")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    options.reference = options.reference or options.model
    for name in ("questions", "completions", "every", "continuations", "max_tokens", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, and must be 1 or more.")
    return options


def _name(settings: Settings) -> str:
    return "-".join(part.rstrip("/").rpartition("/")[2].replace(":", "_") for part in (settings.model, settings.task))


def _rows(folder: Path, settings: Settings) -> list[dict[str, Any]]:
    """What is on the disk already; a line that a kill has cut is measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    stored, wanted = folder / "settings.json", asdict(settings)
    # More questions are the same ones and others.
    if stored.exists() and json.loads(stored.read_text()) | {"questions": settings.questions} != wanted:
        raise SystemExit(f"{folder} holds measurements of other settings ({stored}). Name another folder with --out.")
    stored.write_text(json.dumps(wanted, indent=1) + "\n")
    path = folder / "questions.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()][: settings.questions]


def _measure(folder: Path, settings: Settings, rows: list[dict[str, Any]], *, quiet: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    questions, models = _load(settings)
    if [row["gold"] for row in rows] != [question.gold for question in questions.questions[: len(rows)]]:
        raise SystemExit(f"{folder} holds measurements of other questions. Name another folder with --out.")
    progress = Progress(console=Console(file=sys.stderr), disable=quiet)
    with (folder / "questions.jsonl").open("a", encoding="utf-8") as file, progress:
        bar = progress.add_task("questions", total=settings.questions, completed=len(rows))
        for question in questions.questions[len(rows) :]:
            rows.append(measured(question, models, settings))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            progress.advance(bar)


def _load(settings: Settings) -> tuple[Questions, Models]:
    from dgpo.lab.evaluation.loading import load_model, load_tokenizer, named_model
    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    policy_name, reference_name = named_model(settings.model), named_model(settings.reference)
    tokenizer = load_tokenizer(policy_name)
    questions = load_questions(settings.task, tokenizer, count=settings.questions, seed=settings.seed)
    policy = load_model(policy_name, dtype=settings.dtype)
    same = policy_name == reference_name
    reference = policy if same else load_model(reference_name, dtype=settings.dtype)
    sampler = Continuations(policy, tokenizer, stop=questions.stop, batch_size=settings.batch_size)
    return questions, Models(policy, reference, tokenizer, sampler, questions.stub)


if __name__ == "__main__":
    sys.exit(main())
