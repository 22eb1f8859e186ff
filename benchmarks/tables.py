"""The tables of docs/benchmarks.md and of the README, made from the JSON in benchmarks/results.

    python benchmarks/tables.py            # say which files are out of date; exit status 1 if any is
    python benchmarks/tables.py --write    # bring them up to date

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; what is between them is replaced.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
STEP_NAMES = {
    "dgpo": "**DGPO**",
    "hindsight": "hindsight",
    "grpo_ours": "GRPO on our head",
    "grpo": "TRL's GRPO, beta = 0",
    "grpo_scored": "TRL's GRPO, beta = 0, scored positions only",
    "grpo_kl_ours": "GRPO + KL on our head",
    "grpo_kl": "TRL's GRPO + KL",
    "grpo_kl_scored": "TRL's GRPO + KL, scored positions only",
}

PADDING = {"padded": "as TRL pads it", "sorted": "`sort_by_length`"}
MEMORY = {"peak_mib": "resident", "allocated_mib": "by torch"}


def load(name: str) -> dict[str, Any]:
    """Return one committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, the first column a label."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def origin(result: dict[str, Any]) -> str:
    """Return the line below a table: command, machine, versions, date."""
    machine = result.get("machine")
    if not isinstance(machine, dict):  # older results say it in one line
        processor = machine or result["platform"]
        machine = {"processor": processor, "versions": result["versions"], "date": result.get("date")}
    versions = machine.get("versions") or {
        name: machine[name] for name in ("torch", "transformers", "trl") if name in machine
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}, " if "threads" in machine else ""
    date = f", {machine['date']}" if machine["date"] else ""
    return f"\n`{result['command']}`: {machine['processor']}, {threads}{listed}{date}.\n"


def lm_head_cpu() -> str:
    """Time, ratio and memory of every contender in every case."""
    cases = load("lm_head_cpu")["cases"]
    names = list(dict.fromkeys(name for case in cases.values() for name in case["seconds"]))
    rows = []
    for name in names:
        row = [f"**{name}**" if name == "DGPO" else name]
        for case in cases.values():
            if name not in case["seconds"]:
                row.append("")
                continue
            seconds, peak = case["seconds"][name]["median"], case["peak_mib_above_weight_gradient"].get(name)
            row.append(f"{seconds:.2f} s" + ("" if peak is None else f", {peak:.0f} MiB"))
        rows.append(row)
    for peer in next(iter(cases.values()))["dgpo_over"]:
        ratios = [case["dgpo_over"].get(peer) for case in cases.values()]
        rows.append([f"DGPO / {peer}"] + ["" if x is None else f"{x['median']:.2f}" for x in ratios])
    shares = [case["share_of_matrix_products"] for case in cases.values()]
    rows.append(
        ["share of the matrix products"] + [f"{x['median']:.0%} ({x['min']:.0%} to {x['max']:.0%})" for x in shares]
    )
    heads = [
        f"{name}: N={case['shape']['N']} H={case['shape']['H']} V={case['shape']['V']}" for name, case in cases.items()
    ]
    return table(["", *heads], rows) + "".join(origin(case) for case in cases.values())


def lm_head_short() -> str:
    """The README's: what DGPO costs relative to the others."""
    cases = load("lm_head_cpu")["cases"]
    peers = list(next(iter(cases.values()))["dgpo_over"])
    rows = [
        [f"time, DGPO / {peer}"]
        + [
            "" if peer not in case["dgpo_over"] else f"{case['dgpo_over'][peer]['median']:.2f}"
            for case in cases.values()
        ]
        for peer in peers
    ]
    for label, name in (("DGPO", "DGPO"), ("full logits", "DGPO, full logits")):
        peaks = [case["peak_mib_above_weight_gradient"].get(name) for case in cases.values()]
        rows.append([f"peak memory, MiB: {label}"] + ["" if peak is None else f"{peak:.0f}" for peak in peaks])
    return table(["", *cases], rows)


def lm_head_sweep() -> str:
    """Peak memory as N and V grow."""
    result = load("lm_head_cpu")["sweep"]
    rows = [
        [str(row["N"]), str(row["V"]), f"{row['peak_mib_above_weight_gradient']:.0f}",
         f"{row['of_which_hidden_gradient_mib']:.0f}", f"{row['logits_fp32_mib']:.0f}"]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["N", "V", "peak MiB above the weight gradient", "of which hidden gradient", "one fp32 logits tensor"]
    return table(head, rows) + origin(result)


def compiled_tiles() -> str:
    """What torch.compile would save between the matrix products."""
    result = load("compiled_tiles")
    times = result["nanoseconds_per_entry"]
    rows = [
        [name, f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"] for name, found in times.items()
    ]
    once = f"{result['start_up_seconds']:.1f} s in every process"
    saved = f"{result['saved_seconds_per_2048_tokens_of_vocabulary_49152']:.3f} s"
    rows += [["compiling takes", once], ["and saves, 2,048 tokens of a vocabulary of 49,152", saved]]
    return table(["", "ns an entry (least to most)"], rows) + origin(result)


def _step_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    dgpo = statistics.median(result["seconds"]["dgpo"])
    for name, label in STEP_NAMES.items():
        if name not in result["seconds"]:
            continue
        times = result["seconds"][name]
        median = statistics.median(times)
        whole = result.get("seconds_with_generation", {}).get(name)
        rows.append(
            [label, f"{median:.2f} ({min(times):.2f} to {max(times):.2f})", f"{dgpo / median:.2f}",
             f"{result['peak_mib'][name]:.0f}", "" if whole is None else f"{statistics.median(whole):.2f}"]
        )  # fmt: skip
    return rows


def train_step(name: str) -> str:
    """Time and memory of a training step."""
    result = load(name)
    head = ["", "seconds (least to most)", "DGPO / it", "peak MiB", "seconds with generation"]
    return table(head, _step_rows(result)) + origin(result)


def train_step_overhead() -> str:
    """What a DGPO step takes more than GRPO on the same head."""
    found = {name: dict(load(f"train_step_{name}")["dgpo_over_grpo_ours_seconds"]) for name in ("fp32", "bf16")}
    base = {name: parts.pop("grpo_ours") for name, parts in found.items()}
    rows = [
        [part, *(f"{parts[part]:.3f} s, {parts[part] / base[name]:.0%}" for name, parts in found.items())]
        for part in next(iter(found.values()))
    ]
    return table(["more than GRPO on our head", *found], rows)


def train_step_sweep() -> str:
    """Time and memory of a step as one size after the other grows."""
    result = load("train_step_sweep")
    names = list(result["sweep"][0]["seconds"])
    rows = []
    for row in result["sweep"]:
        seconds, peaks = row["seconds"], row["peak_mib"]
        cells = [f"{seconds[name]['median']:.2f} s, {peaks[name]:.0f} MiB" for name in names]
        ratios = [f"{seconds['dgpo']['median'] / seconds[name]['median']:.2f}" for name in names if name != "dgpo"]
        rows.append([f"{row['varied'].replace('_', ' ')} {row['value']}", *cells, *ratios])
    over = [f"DGPO / {STEP_NAMES[name]}" for name in names if name != "dgpo"]
    return table(["", *(STEP_NAMES[name] for name in names), *over], rows) + origin(result)


def train_step_live() -> str:
    """Time of a step by the share of completions that have an advantage."""
    result = load("train_step_live")
    names = list(result["live"][0]["seconds"])
    rows = []
    for row in result["live"]:
        seconds = [f"{row['seconds'][name]['median']:.2f} s" for name in names]
        rows.append([f"{row['share']:.0%}", *seconds, *(f"{row['dgpo_over'][name]:.2f}" for name in names[1:])])
    over = [f"DGPO / {STEP_NAMES[name]}" for name in names[1:]]
    return table(["with advantage", *(STEP_NAMES[name] for name in names), *over], rows) + origin(result)


def train_step_padding() -> str:
    """Tokens of the backbone passes, and time of an update, as TRL pads a rollout and sorted by length."""
    result = load("train_step_padding")
    rows = []
    for name, rollout in result["padding"].items():
        for way, count in rollout["counts"].items():
            seconds = rollout.get("seconds", {}).get(way)
            taken = "" if seconds is None else f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})"
            share = count["padding"] / count["tokens"]
            rows.append([f"{name}, {PADDING[way]}", f"{count['tokens']:,}", f"{share:.1%}", taken])
    return table(["", "tokens", "of which padding", "seconds (least to most)"], rows) + origin(result)


def train_step_head_copies() -> str:
    """A step of the SmolLM2 recipe with the hook on the head and without."""
    result = load("train_step_head_copies")
    rows = [
        [name, f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})"]
        for name, seconds in result["head_copies"].items()
    ]
    return table(["", "seconds (least to most)"], rows) + origin(result)


def train_step_hints() -> str:
    """A rollout and its update by GRPO, DGPO and hindsight."""
    result = load("train_step_hints")
    found = result["hints"]
    rows = [
        [
            STEP_NAMES[name],
            *(
                f"{each[name]['median']:.2f} ({each[name]['min']:.2f} to {each[name]['max']:.2f}), "
                f"{each[name]['median'] / each['grpo_ours']['median']:.2f}"
                for each in found.values()
            ),
        ]
        for name in found["after sampling"]
    ]
    return table(["seconds (least to most), times GRPO's", *found], rows) + origin(result)


def train_step_skipping() -> str:
    """Whole steps of two recipes with and without completions of advantage 0."""
    result = load("train_step_skipping")
    rows = [
        [
            f"`{recipe}`",
            f"{found['live_share']:.0%}",
            *(f"{each['median']:.2f} ({each['min']:.2f} to {each['max']:.2f})" for each in found["seconds"].values()),
            f"{found['ratio']:.2f}",
            f"{found['pairs_below_1']} of {found['pairs']}",
        ]
        for recipe, found in result["skipping"].items()
    ]
    head = ["", "with advantage", "seconds without the others", "with all", "ratio", "pairs that are faster"]
    return table(head, rows) + origin(result)


def train_step_overlap() -> str:
    """A step of the SmolLM2 recipe whose rewards wait, by when the reference runs."""
    result = load("train_step_overlap")
    found = result["overlap"]
    ways = {name: found[name] for name in ("while they wait", "after them")}
    rows = [[name, f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"] for name, s in ways.items()]
    return table(["the reference runs", "seconds (least to most)"], rows) + origin(result)


def train_step_memory() -> str:
    """Memory of a step without what the C library keeps of freed memory."""
    result = load("train_step_memory")
    rows = [
        [STEP_NAMES[name], *(f"{peaks[kind][name]:.1f}" for peaks in result["memory"].values() for kind in MEMORY)]
        for name in STEP_NAMES
        if name in next(iter(result["memory"].values()))["peak_mib"]
    ]
    ratios = [
        f"{peaks[kind]['dgpo'] / peaks[kind]['grpo_kl_ours']:.3f}"
        for peaks in result["memory"].values()
        for kind in MEMORY
    ]
    head = [f"{dtype}: {label}" for dtype in result["memory"] for label in MEMORY.values()]
    rows.append(["DGPO / GRPO + KL on our head", *ratios])
    return table(["MiB", *head], rows) + origin(result)


def lm_head_errors() -> str:
    """Relative errors of each implementation against float64."""
    result = load("lm_head_errors")
    parts = []
    for dtype in ("float32", "bfloat16"):
        columns = list(next(iter(result[dtype].values())))
        rows = [[name] + [f"{found[column]:.0e}" for column in columns] for name, found in result[dtype].items()]
        parts.append(f"{dtype}:\n\n" + table(["", *columns], rows))
    return "\n".join(parts) + origin(result)


def interval_coverage() -> str:
    """Coverage of the intervals, per cent."""
    result = load("interval_coverage")
    columns = list(next(iter(result["coverage"].values())))[1:]
    rows = [[name] + [f"{100 * found[column]:.1f}" for column in columns] for name, found in result["coverage"].items()]
    return f"{result['exams']:,} exams a row.\n\n" + table(["simulated model", *columns], rows) + origin(result)


def math_rewards() -> str:
    """Throughput of the mathematical rewards."""
    result = load("math_rewards")
    labels = {
        "pool": f"pool of {result['workers']} workers",
        "pool_without_hanging_answers": "the same without the hanging answers",
        "one_process_per_answer": f"one process per answer, {result['workers']} at a time",
    }
    rows = [
        [label, f"{result[key]['answers']:,}", f"{result[key]['answers_per_second']:.1f}",
         str(result[key]["out_of_place"])]
        for key, label in labels.items()
    ]  # fmt: skip
    return table(["", "answers", "answers / s", "out of place"], rows) + origin(result)


def credit_logging() -> str:
    """Cost of the credit log."""
    result = load("credit_logging")
    rows = [
        [name, f"{1000 * result['seconds_of_one_logged_step_median']:.1f}",
         f"{1000 * result['median_step_seconds_off']:.0f}", f"{100 * share:.1f} %"]
        for name, share in result["slower_by_from_single_steps"].items()
    ]  # fmt: skip
    return table(["logged", "ms more in a logged step", "ms in an unlogged step", "slower by"], rows) + origin(result)


def report_page() -> str:
    """Seconds of the page of long completions."""
    result = load("report_page")
    names = {
        "first_paint": "first paint",
        "usable": "can be used",
        "more_tokens": "4,000 more tokens",
        "other_colour": "another colour",
    }
    rows = [
        [f"2 x {case['tokens']:,}", str(case["width"]), f"{case['megabytes']}"]
        + [f"{case[name]['median']:.2f} ({case[name]['largest']:.2f})" if name in case else "-" for name in names]
        for case in result["cases"]
    ]
    return table(["tokens", "pixels wide", "MB", *names.values()], rows) + origin(result)


def watching() -> str:
    """Cost of a logged step of `dgpo.watch`."""
    result = load("watching")
    rows = [
        [tokens.replace("+", " + "), name, f"{case['more_in_a_logged_step']['median']:.2f}",
         f"{statistics.median(case['seconds']['forward']):.2f}",
         f"{case['forwards_of_the_logged_completions']['median']:.2f}",
         f"{case['microseconds_between_logged_steps']:.1f}"]
        for tokens, cases in result["tokens"].items()
        for name, case in cases.items()
    ]  # fmt: skip
    head = ["prompt + completion", "watched against", "s more in a logged step", "s of a forward pass", "ratio"]
    return table([*head, "µs in any other step"], rows) + origin(result)


TABLES: dict[str, Callable[[], str]] = {
    "lm-head-cpu": lm_head_cpu,
    "lm-head-short": lm_head_short,
    "lm-head-sweep": lm_head_sweep,
    "compiled-tiles": compiled_tiles,
    "lm-head-errors": lm_head_errors,
    "train-step-fp32": lambda: train_step("train_step_fp32"),
    "train-step-bf16": lambda: train_step("train_step_bf16"),
    "train-step-overhead": train_step_overhead,
    "train-step-memory": train_step_memory,
    "train-step-sweep": train_step_sweep,
    "train-step-live": train_step_live,
    "train-step-padding": train_step_padding,
    "train-step-skipping": train_step_skipping,
    "train-step-overlap": train_step_overlap,
    "train-step-head-copies": train_step_head_copies,
    "train-step-hints": train_step_hints,
    "credit-logging": credit_logging,
    "watching": watching,
    "math-rewards": math_rewards,
    "interval-coverage": interval_coverage,
    "report-page": report_page,
}


def updated(text: str) -> str:
    """Return a page with its tables made anew; a name that is not known is an error."""
    return MARKED.sub(lambda found: found[1] + "\n" + TABLES[found["name"]]() + "\n" + found[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    stale = [page for page in PAGES if updated(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'written' if options.write else 'out of date'}")
        if options.write:
            page.write_text(updated(page.read_text()))
    return int(bool(stale) and not options.write)


if __name__ == "__main__":
    sys.exit(main())
