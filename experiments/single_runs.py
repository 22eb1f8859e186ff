"""Chapters of docs/results.md on single runs of the recipes, and the cost of a step, from the summaries they left."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.report import ROOT, Verdict, markdown_table

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


_TOLERANCE = 1.05
_FIGURES = ("seconds", "peak_mib_all")
_STEPS = {"float32": "train_step_fp32", "bfloat16": "train_step_bf16"}


def costs() -> list[Verdict]:
    """Return what the benchmarks of the head and of a training step say about the claim on cost, time and memory apart.

    Judged by GRPO with a KL term in the same code: beside another implementation the implementations are compared.

    Returns:
        The verdicts.
    """
    cases = _read(BENCHMARKS / "lm_head_cpu.json")["cases"]
    head = {name: case["dgpo_over"]["GRPO + KL"]["median"] for name, case in cases.items()}
    steps = {dtype: _read(BENCHMARKS / f"{name}.json") for dtype, name in _STEPS.items()}
    time, memory = ({dtype: _ratio(one, figure, "grpo_kl_ours") for dtype, one in steps.items()} for figure in _FIGURES)
    time_to_trl, memory_to_trl = (
        _listed({dtype: _ratio(one, figure, "grpo_kl_scored") for dtype, one in steps.items()}) for figure in _FIGURES
    )
    within = f"Like for like, on one CPU thread, differences up to {_TOLERANCE - 1:.0%} counting as none:"
    other = "that is a property of this implementation of the head, on a CPU ([benchmarks.md](benchmarks.md))."
    return [
        Verdict(
            "no extra time beyond GRPO with a reference",
            _judged([*head.values(), *time.values()]),
            f"{within} the head of DGPO takes {min(head.values()):.2f} to {max(head.values()):.2f} of the time of GRPO "
            f"+ KL by the same code, forward and backward, in {len(head)} cases, a whole step {_listed(time)}. Of the "
            f"time of TRL's GRPO with a KL penalty, made to score the same positions, a step takes {time_to_trl}: "
            f"{other} Against GRPO *without* a reference it costs the reference's forward pass.",
            {"head": head, "step": time},
            short=f"head {min(head.values()):.2f} to {max(head.values()):.2f}, step {_listed(time)}",
        ),
        Verdict(
            "no extra memory beyond GRPO with a reference",
            _judged([*memory.values()]),
            f"{within} above model, reference and gradients, a step of DGPO needs {_listed(memory)} of the memory that "
            "GRPO with a KL term needs by the same code. It is resident memory, which differs from process to process"
            f"{_process_spread(steps)}. Of what TRL's GRPO with a KL penalty needs, made to score the same positions, "
            f"a step needs {memory_to_trl}: {other}",
            {"step": memory},
            short=f"a step needs {_listed(memory)} of it",
        ),
    ]


def _judged(ratios: list[float]) -> Literal["supported", "not supported"]:
    return "supported" if max(ratios) <= _TOLERANCE else "not supported"


def _ratio(step: Mapping[str, Any], figure: str, contender: str) -> float:
    """DGPO's time or peak memory as a multiple of a contender's."""
    ours, theirs = (statistics.median(step[figure][name]) for name in ("dgpo", contender))
    return ours / theirs


def _listed(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{ratio:.2f} in {dtype}" for dtype, ratio in ratios.items())


def _process_spread(steps: Mapping[str, Mapping[str, Any]]) -> str:
    """How far the processes of one contender lie apart."""
    spread = [max(each) / min(each) - 1 for one in steps.values() for each in one["peak_mib_all"].values()]
    return f", here by up to {max(spread):.0%}; medians are compared"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _accuracy(run: dict[str, Any], phase: str) -> str:
    shown = run["held_out_accuracy"][phase]
    return f"{shown['mean']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})"


def _quickstart() -> str:
    runs = {label: [_read(RUNS / f"{name}-seed{seed}.json") for seed in _SEEDS] for label, name in _QUICKSTART.items()}
    first = next(iter(runs.values()))
    rows = [["before training", *(_accuracy(run, "before") for run in first)]]
    rows += [[label, *(_accuracy(run, "after") for run in seeds)] for label, seeds in runs.items()]
    steps, prompts = first[0]["steps"], first[0]["held_out_accuracy"]["after"]["prompts"]
    table = markdown_table(["held-out accuracy at T = 1", *(f"seed {seed}" for seed in _SEEDS)], rows)
    after = {label: [run["held_out_accuracy"]["after"]["mean"] for run in seeds] for label, seeds in runs.items()}
    dgpo, even, sharp = after.values()
    gaps = [abs(a - b) for a, b in zip(dgpo, even, strict=True)]
    worse = sum(s < e for s, e in zip(sharp, even, strict=True))
    return f"""## The quickstart: no better than GRPO, and worse with a small tau

`dgpo train recipes/quickstart.yaml --seed S [--tau X]`, 2026-11-28, two cores of an AMD EPYC, Python 3.11.7,
torch 2.13.0 (CPU), transformers 5.23.0, trl 1.16.0: {steps} steps on one thread. {prompts} held-out prompts, in neither
the warm-up nor the training; Wilson intervals; the seed decides the warm-up, the prompts and the sampling.

{table}

At tau = 0.05 it was worse than GRPO in {worse} of {len(sharp)} seeds; at tau = 0.5 the two differ by at most
{max(gaps):.3f}. The experiment on credit, above, asks the same on a task with more headroom and with more seeds.

![quickstart](figures/quickstart.png)"""


def _smollm2_recipe() -> str:
    run = _read(RUNS / "smollm2-chain-sum-seed0.json")
    prompts = run["held_out_accuracy"]["after"]["prompts"]
    table = markdown_table(
        ["held-out accuracy before", "after", "reward, first 10 steps", "last 10 steps"],
        [
            [
                _accuracy(run, "before"),
                _accuracy(run, "after"),
                f"{run['reward_first_10_logs']:.3f}",
                f"{run['reward_last_10_logs']:.3f}",
            ]
        ],
    )
    return f"""## One longer run of the recipe for SmolLM2

`make smollm2`, then `dgpo train recipes/smollm2-chain-sum.yaml`, 2026-11-23, two cores of an Intel Xeon, Python 3.11.7,
torch 2.13.0 (CPU), trl 1.16.0, peft 0.21.2: {run["steps"]} steps, seed {run["seed"]}, chat prompts, adapters on all
layers. reasoning-gym's
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
