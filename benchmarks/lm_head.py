"""Time and memory of the head statistics, forward and backward: DGPO, GRPO and GRPO + KL by us, TRL, Liger and others.

    python benchmarks/lm_head.py                                     # cases A and B in bf16 and fp32, or the GPU's
    python benchmarks/lm_head.py --cases A-bf16 --repeats 9 --threads 2
    python benchmarks/lm_head.py --sweep                             # also: peak memory as N and V grow
    python benchmarks/lm_head.py --sweep --update --save FILE        # that alone, beside the cases in the file
    python benchmarks/lm_head.py --save benchmarks/results/lm_head_cpu.json --plot docs/figures/lm-head-cpu.png

Time: all contenders in one process, on the same inputs, repeats interleaved; medians and ratios round by round. Memory:
one process per contender, peak above the inputs and above the gradient of the weight, which everybody returns; one
that fails there keeps its times and is listed with the reason. `--save` writes after every case.
Policy and reference have a head each. "GRPO + KL" and "GRPO" without a maker's name are our own code without the pair
statistics, so that the first ratio says what DGPO's statistics cost. "matrix products alone" multiplies the same tiles
by the same routines and does nothing else: nobody who streams both heads and recomputes can be faster.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import MIB, command, interleaved, machine, own_process, peak_memory, ratios, save, spread
from _lm_head_contenders import UnavailableError, contenders, make_problem

CASES = {  # N, H, V, dtype
    "A-bf16": (2048, 576, 49152, "bfloat16"),
    "B-bf16": (1024, 896, 151936, "bfloat16"),
    "A-fp32": (2048, 576, 49152, "float32"),
    "B-fp32": (1024, 896, 151936, "float32"),
    "gpu-5120": (16384, 5120, 152064, "bfloat16"),
    "gpu-2048": (16384, 2048, 152064, "bfloat16"),
    "gpu-896": (16384, 896, 152064, "bfloat16"),
    "tiny": (64, 32, 500, "float32"),
}
CPU_CASES, GPU_CASES = ("A-bf16", "B-bf16", "A-fp32", "B-fp32"), ("gpu-5120", "gpu-2048", "gpu-896")
PACKAGES = ("torch", "trl", "liger-kernel", "cut-cross-entropy", "triton")
OURS, FLOOR = "DGPO", "matrix products alone"
PEERS = ("GRPO + KL", "GRPO", "DGPO, full logits", "TRL GRPO + KL", "Liger GRPO + KL", "cut-cross-entropy, GRPO + KL")


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, ratios and peaks of one case; contenders that cannot run are listed with their reason."""
    shape = CASES[case]
    problem = make_problem(*shape, arguments.device)
    runnable, skipped = {}, {}
    for name, run in contenders(arguments.device).items():
        if arguments.only and name not in (*arguments.only, OURS, FLOOR):
            continue
        try:
            run(problem)
        except UnavailableError as error:
            skipped[name] = str(error)
        except torch.OutOfMemoryError:
            skipped[name] = "out of memory"
        else:
            runnable[name] = partial(run, problem)
    seconds = interleaved(runnable, arguments.repeats, warm_up=0)  # warm from the look at who can run
    del problem, runnable
    if arguments.device == "cuda":
        torch.cuda.empty_cache()  # what this process has cached is out of reach for those that measure the peaks
    peaks, without_peak = peaks_of([name for name in seconds if name != FLOOR], shape, arguments)
    results = {
        "shape": dict(zip(("N", "H", "V", "dtype"), shape, strict=True)),
        "seconds": {name: spread(times) for name, times in seconds.items()},
        "seconds_all": seconds,
        "dgpo_over": {name: spread(ratios(seconds, OURS, name)) for name in PEERS if name in seconds},
        "share_of_matrix_products": spread(ratios(seconds, FLOOR, OURS)),
        "peak_mib_above_weight_gradient": peaks,
        "without_peak": without_peak,
        "skipped": skipped,
        "command": command(),
        "machine": machine(*PACKAGES),
    }
    print_case(case, results)
    return results


def peaks_of(
    names: list[str], shape: tuple[int, int, int, str], arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the peaks of those contenders that get through, and of the others what their processes said last."""
    peaks, failed = {}, {}
    for name in names:
        try:
            peaks[name] = peak_of(name, shape, arguments)
        except RuntimeError as error:
            failed[name] = str(error).strip().splitlines()[-1]
    return peaks, failed


def peak_of(name: str, shape: tuple[int, int, int, str], arguments: argparse.Namespace) -> float:
    """Return the peak of one contender in a process of its own, in MiB above inputs and weight gradient."""
    options = ("--device", arguments.device, "--threads", str(arguments.threads))
    return own_process("--peak-of", name, "--shape", *map(str, shape), *options)


def own_peak(arguments: argparse.Namespace) -> float:
    """What `peak_of` runs: libraries are loaded and warm, then one forward and backward pass is watched."""
    run = contenders(arguments.device)[arguments.peak_of]
    N, H, V, dtype = *map(int, arguments.shape[:3]), arguments.shape[3]
    run(make_problem(16, 16, 64, dtype, arguments.device))
    problem = make_problem(N, H, V, dtype, arguments.device)
    with peak_memory(arguments.device) as peak:
        grads = run(problem)
    weight_grad = grads[1]
    assert weight_grad is not None
    return (peak.bytes - weight_grad.numel() * weight_grad.element_size()) / MIB


def sweep(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return DGPO's peak as N and V grow, with the size of one (N, V) tensor of logits beside it."""
    rows = []
    dtype, H = "bfloat16", 576
    for N in (512, 2048, 8192):
        for V in (16384, 49152, 147456):
            peak = peak_of(OURS, (N, H, V, dtype), arguments)
            # The sums of the hidden states' gradient in fp32, and the gradient itself in bf16.
            sizes = {"of_which_hidden_gradient_mib": 6 * N * H / MIB, "logits_fp32_mib": 4 * N * V / MIB}
            rows.append({"N": N, "V": V, "H": H, "dtype": dtype, "peak_mib_above_weight_gradient": peak} | sizes)
            print(f"N={N:5} V={V:6}: {peak:6.1f} MiB above the weight gradient; logits {4 * N * V / MIB:.0f} MiB")
    return rows


def print_case(case: str, results: dict[str, Any]) -> None:
    """Print one case as a table."""
    from rich.console import Console
    from rich.table import Table

    shape = results["shape"]
    table = Table(title=f"{case}: N={shape['N']} H={shape['H']} V={shape['V']}, forward + backward")
    for column in ("", "seconds", "min to max", "DGPO / it", "peak MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, times in results["seconds"].items():
        ratio, peak = results["dgpo_over"].get(name), results["peak_mib_above_weight_gradient"].get(name)
        table.add_row(
            name, f"{times['median']:.3f}", f"{times['min']:.3f} to {times['max']:.3f}",
            "" if ratio is None else f"{ratio['median']:.2f}", "" if peak is None else f"{peak:.0f}",
        )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    share = results["share_of_matrix_products"]
    console.print(
        f"DGPO reaches {share['median']:.0%} of its matrix products ({share['min']:.0%} to {share['max']:.0%})"
    )
    for name, reason in results["skipped"].items():
        console.print(f"left out: {name}: {reason}")
    for name, reason in results["without_peak"].items():
        console.print(f"no peak: {name}: {reason}")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw seconds and peak memory of every case, relative to DGPO."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    names = [name for name in (OURS, *PEERS) if any(name in case["seconds"] for case in results.values())]
    height = 0.8 / len(results)
    for index, (case, values) in enumerate(results.items()):
        places = [len(names) - i - index * height for i, name in enumerate(names)]
        times = [values["seconds"].get(name, {}).get("median", 0.0) for name in names]
        peaks = [values["peak_mib_above_weight_gradient"].get(name, 0.0) for name in names]
        axes[0].barh(places, [x / values["seconds"][OURS]["median"] for x in times], height, label=case)
        axes[1].barh(places, peaks, height, label=case)
    axes[0].axvline(1, color="black", linewidth=0.8)
    axes[0].set_xlabel("time, DGPO = 1")
    axes[1].set_xlabel("peak memory above inputs and weight gradient, MiB")
    axes[1].set_xscale("log")
    axes[0].set_yticks([len(names) - i - height * (len(results) - 1) / 2 for i in range(len(names))], names)
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: A and B, or the GPU's where there is one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", nargs="+", help="these contenders, by name, beside DGPO")
    parser.add_argument("--sweep", action="store_true", help="also: peak memory as N and V grow")
    parser.add_argument("--save", type=Path, help="write the results as JSON")
    parser.add_argument("--update", action="store_true", help="keep the other cases that the JSON file holds")
    parser.add_argument("--plot", type=Path, help="write a picture")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write and draw."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(json.dumps(own_peak(arguments)))
        return
    previous: dict[str, Any] = {}
    if arguments.update and arguments.save and arguments.save.exists():
        previous = json.loads(arguments.save.read_text())
    measured = previous.get("cases", {})
    every = GPU_CASES if arguments.device == "cuda" else CPU_CASES
    cases = arguments.cases or (() if arguments.sweep and measured else every)
    result = {"threads": arguments.threads, "device": arguments.device, "repeats": arguments.repeats}
    result |= {key: previous[key] for key in ("cases", "sweep") if key in previous}
    for case in cases:
        measured[case] = measure(case, arguments)
        result["cases"] = {case: measured[case] for case in CASES if case in measured}
        save(arguments.save, result, *PACKAGES)  # after each: hours of work must not hang on the last one
    if arguments.sweep:
        result["sweep"] = {"rows": sweep(arguments), "command": command(), "machine": machine(*PACKAGES)}
        save(arguments.save, result, *PACKAGES)
    if arguments.plot:
        plot(result["cases"], arguments.plot)


if __name__ == "__main__":
    sys.exit(main())
