"""Chapters of docs/results.md on single runs of the recipes, and the cost of a step, from the summaries they left."""

import json
import statistics
from pathlib import Path
from typing import Any

from experiments._report import ROOT, Verdict, markdown_table

RUNS = ROOT / "docs" / "results"
BENCHMARKS = ROOT / "benchmarks" / "results"
_SEEDS = (0, 1, 2)
_QUICKSTART = {
    "DGPO, tau = 0.5 (the recipe)": "quickstart",
    "weights of 1, `--tau 1e9`: GRPO": "quickstart-tau1e9",
    "DGPO, `--tau 0.05`": "quickstart-tau0.05",
}


def chapters() -> list[str]:
    """Return the chapters.

    Returns:
        Markdown, one text each.
    """
    return [_quickstart(), _smollm2_recipe(), _EXACTNESS, _NOT_TESTED]


def cost() -> Verdict:
    """Return what the benchmark of a training step says about the claim on cost.

    Returns:
        The verdict.
    """
    told, ratios = [], []
    for dtype, name in (("float32", "train_step_fp32"), ("bfloat16", "train_step_bf16")):
        found = _read(BENCHMARKS / f"{name}.json")
        medians = {contender: statistics.median(times) for contender, times in found["seconds"].items()}
        memory = found["peak_mib"]["dgpo"] / found["peak_mib"]["grpo_kl_scored"]
        ratios += [medians["dgpo"] / medians["grpo_kl_scored"], memory]
        told.append(f"{ratios[-2]:.2f} of the time and {memory:.2f} of the peak memory in {dtype}")
    return Verdict(
        "no extra cost beyond GRPO with a reference",
        "supported" if max(ratios) <= 1 else "not supported",
        f"On one CPU thread, a step of DGPO takes {' and '.join(told)} of what TRL's GRPO with a KL penalty takes when "
        "made to score the same positions. Part of that is this implementation of the head and says nothing about the "
        "method, nor about a GPU: [benchmarks.md](benchmarks.md). Against GRPO *without* a reference it costs the "
        "reference's forward pass and memory.",
        {"ratios": ratios},
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _accuracy(found: dict[str, Any], phase: str) -> str:
    shown = found["held_out_accuracy"][phase]
    return f"{shown['mean']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})"


def _quickstart() -> str:
    runs = {label: [_read(RUNS / f"{name}-seed{seed}.json") for seed in _SEEDS] for label, name in _QUICKSTART.items()}
    first = next(iter(runs.values()))
    rows = [["before training", *(_accuracy(run, "before") for run in first)]]
    rows += [[label, *(_accuracy(run, "after") for run in found)] for label, found in runs.items()]
    steps, prompts = first[0]["steps"], first[0]["held_out_accuracy"]["after"]["prompts"]
    table = markdown_table(["held-out accuracy at T = 1", *(f"seed {seed}" for seed in _SEEDS)], rows)
    after = {label: [run["held_out_accuracy"]["after"]["mean"] for run in found] for label, found in runs.items()}
    dgpo, even, sharp = after.values()
    gaps = [abs(a - b) for a, b in zip(dgpo, even, strict=True)]
    worse = sum(s < e for s, e in zip(sharp, even, strict=True))
    return f"""## The quickstart: a sharp tau is worse, the recipe's is GRPO

`dgpo train recipes/quickstart.yaml --seed S [--tau X]`, 2026-11-23, two cores of an Intel Xeon, Python 3.11.7,
torch 2.13.0 (CPU), trl 1.16.0: {steps} steps on one thread. {prompts} held-out prompts that neither the warm-up nor
training has met, Wilson intervals; the seed decides the warm-up, the prompts and the sampling.

{table}

At tau = 0.05 it was worse than GRPO in {worse} of {len(sharp)} seeds; at tau = 0.5 the two differ by at most
{max(gaps):.3f}. The experiment on credit, above, asks the same on a task with more headroom and with more seeds.

![quickstart](figures/quickstart.png)"""


def _smollm2_recipe() -> str:
    found = _read(RUNS / "smollm2-chain-sum-seed0.json")
    prompts = found["held_out_accuracy"]["after"]["prompts"]
    table = markdown_table(
        ["held-out accuracy before", "after", "reward, first 10 steps", "last 10 steps"],
        [
            [
                _accuracy(found, "before"),
                _accuracy(found, "after"),
                f"{found['reward_first_10_logs']:.3f}",
                f"{found['reward_last_10_logs']:.3f}",
            ]
        ],
    )
    return f"""## One longer run of the recipe for SmolLM2

`make smollm2`, then `dgpo train recipes/smollm2-chain-sum.yaml`, 2026-11-23, the same machine and versions,
peft 0.21.2: {found["steps"]} steps, seed {found["seed"]}, chat prompts, adapters on all layers. reasoning-gym's
`chain_sum` on {prompts} held-out questions at T = 1.
One seed and no baseline: it shows that the recipe trains, nothing about the method.

{table}

![SmolLM2](figures/smollm2-chain-sum.png)"""


_EXACTNESS = """## Exactness

Asserted by tests, with the bounds given there (`make test`):

- weights of 1 give TRL's parameters for each loss type, accumulation 1 and 4, several updates per rollout, LoRA, and
  heads with softcapping, scaling, bias and experts: relative difference of the gradients below 2e-6 to 1e-5;
- two processes, with data parallelism and with FSDP2, give the gradients and metrics of one to 3e-6;
- a run killed with SIGKILL and resumed ends with the same parameters bit for bit: on and off generation boundaries,
  with several updates per rollout, with a moving reference, on one process and on two."""

_NOT_TESTED = """## Not tested here

AIME with Qwen2.5-32B, models above 135 million parameters, completions longer than a few dozen tokens."""
