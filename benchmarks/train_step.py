"""Peak memory and time of one training step: DGPO, GRPO and GRPO with a KL term, side by side.

    python benchmarks/train_step.py                       # V = 49152, 3 layers, 4 x 192 tokens, on this machine
    python benchmarks/train_step.py --dtype bfloat16 --save benchmarks/results/train_step_bf16.json
    python benchmarks/train_step.py --sweep --repeats 2   # completion length, vocabulary and group size, one at a time
    python benchmarks/train_step.py --live 1.0 0.7 0.4 --batch-size 10    # by the share of completions with advantage
    python benchmarks/train_step.py --padding --completion-length 384     # as TRL pads a rollout, or sorted by length
    python benchmarks/train_step.py --skipping --repeats 3                # recipes as they are, by skip_zero_advantage
    python benchmarks/train_step.py --overlap --repeats 3                 # the reference while rewards wait
    python benchmarks/train_step.py --hints --repeats 3                   # GRPO, DGPO and hindsight, a rollout each
    python benchmarks/train_step.py --head-copies --repeats 2            # SmolLM2 with LoRA: sampling on a CPU
    python benchmarks/train_step.py --memory float32 bfloat16             # memory alone; the machine may be busy

Time: all contenders in one process, repeats interleaved, medians and their spread. Memory: one process per contender
and repeat (`--sweep`: one), the median, peak resident memory above what the process held before its first step
(gradients and optimizer included), and what torch allocates at most in a third step, which is the same in every run (on
a GPU, `torch.cuda.max_memory_allocated` for both). A step is what follows generation:
scoring the reference (TRL does it once per rollout), the loss and its backward pass, on random token ids; "with
generation" is the same step with TRL's sampling before it, on the same trainers.

Contenders: `dgpo`; `grpo` and `grpo_kl`, TRL as it is (beta = 0 and 0.04), which on a CPU projects prompt and padding
positions as well; `grpo_kl_scored`, TRL's GRPO+KL made to project the scored positions only, as it does on a GPU. The
last one is the fair comparison with TRL, the one before it what a TRL user on a CPU sees. `grpo_kl_ours` is GRPO+KL on
our head, by the same code without the statistics of the pair: the fair comparison of the method's cost. `grpo_ours` is
GRPO without a reference on our head: what DGPO takes more than it is broken down by clocks inside of the step.
`grpo_scored` is plain GRPO by TRL at the scored positions only. `--live` compares these three.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import trl
import trl.trainer.utils
from _common import allocated_memory, interleaved, own_process, peak_memory, save, spread
from _lm_head_contenders import without_entropy
from _step_breakdown import breakdown
from _step_hints import hints
from _step_model import build_model
from _step_padding import padding
from _step_turns import head_copies, overlap, skipping

import dgpo.lm_head.stats as head_stats
from dgpo.engines.trl import heads

TRL_COMPACT = trl.trainer.utils._use_triton
CONTENDERS = ("dgpo", "grpo", "grpo_kl", "grpo_kl_scored", "grpo_kl_ours", "grpo_ours")
QUESTION = {"prompt": "word", "answer": "word"}
LIVE_CONTENDERS = ("dgpo", "grpo_scored", "grpo_ours")
SIZES = ("vocab_size", "hidden_size", "layers", "batch_size", "prompt_length", "completion_length")
SIZES += ("dtype", "device", "threads")
SWEEP = {
    "completion_length": (96, 192, 384),
    "vocab_size": (16384, 49152, 147456),
    "batch_size": (2, 4, 8),  # one group
}


def build_trainer(
    contender: str,
    model_path: str,
    arguments: argparse.Namespace,
    question: Mapping[str, str] = QUESTION,
    **more: Any,
) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from dgpo import DGPOConfig, DGPOTrainer

    options = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": arguments.batch_size,
        "num_generations": arguments.batch_size,
        "max_completion_length": arguments.completion_length,
        "beta": 0.04 if "kl" in contender else 0.0,
        "report_to": [],
        "use_cpu": arguments.device == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    is_ours = contender in ("dgpo", "hindsight")
    trainer_class, config_class = (DGPOTrainer, DGPOConfig) if is_ours else (trl.GRPOTrainer, trl.GRPOConfig)
    if is_ours:
        options["credit_rule"] = contender
    if contender == "hindsight":  # one question, so that no other has a hint to compare with
        options["hint_control"] = "plain"
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, arguments.dtype)),
        lambda completions, **_: [float(row) for row in range(len(completions))],  # all have an advantage
        config_class(**options, **more),
        train_dataset=Dataset.from_list([dict(question)] * arguments.batch_size),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    if not is_ours and contender != "grpo_kl_ours":
        return trainer
    # Weights that are not 1: what happens after the first update.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
            parameter.add_(noise, alpha=1e-3)
    return trainer


def advantages(arguments: argparse.Namespace) -> torch.Tensor:
    """Advantages of which a share is not 0, on completions of any length."""
    count = arguments.batch_size
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.linspace(-1, 1, count + count % 2)[:count].index_fill(0, order[round(arguments.share * count) :], 0.0)


def run_step(contender: str, trainer: Any, arguments: argparse.Namespace) -> None:
    """Score, loss and backward pass on one batch of random tokens; every completion has another length."""
    device = trainer.accelerator.device
    generator = torch.Generator().manual_seed(2)
    shape = (arguments.batch_size, arguments.prompt_length + arguments.completion_length)
    ids = torch.randint(3, arguments.vocab_size, shape, generator=generator).to(device)
    length = arguments.completion_length
    lengths = torch.linspace(length // 2, length, arguments.batch_size).long().to(device)
    inputs = {
        "prompt_ids": ids[:, :-length],
        "prompt_mask": torch.ones_like(ids[:, :-length]),
        "completion_ids": ids[:, -length:],
        "completion_mask": (torch.arange(length, device=device) < lengths[:, None]).long(),
        "advantages": advantages(arguments).to(device),
        "num_items_in_batch": lengths.sum().float(),
    }
    with scoring_of(contender):
        if "kl" in contender:
            attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            with torch.no_grad(), log_probabilities_alone():
                scores = trainer._get_per_token_logps_and_entropies(trainer.ref_model, ids, attention, length)
            inputs["ref_per_token_logps"] = scores[0]
        trainer._compute_loss(trainer.model, inputs).backward()


@contextmanager
def scoring_of(contender: str) -> Iterator[None]:
    """Decide how TRL scores inside of the block: as it does, at the scored positions only, or by our head."""
    trl.trainer.utils._use_triton = lambda device: True if contender.endswith("_scored") else TRL_COMPACT(device)
    with heads.policy_pass() if contender.endswith("_ours") else nullcontext():
        yield


@contextmanager
def log_probabilities_alone() -> Iterator[None]:
    """Let our head leave out the entropy inside of the block: GRPO+KL asks its reference for none."""
    choose = head_stats.choose_tile_ops
    with patch.object(head_stats, "choose_tile_ops", lambda *place: without_entropy(choose(*place))):
        yield


def run_whole_step(
    contender: str, trainer: Any, arguments: argparse.Namespace, question: Mapping[str, str] = QUESTION
) -> None:
    """Sample, score, loss and backward pass."""
    with scoring_of(contender):
        inputs = trainer._generate_and_score_completions([dict(question)] * arguments.batch_size)
        trainer._compute_loss(trainer.model, inputs).backward()


def measure_time(model_path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of each contender, repeats interleaved; the first round warms up."""
    trainers = {name: build_trainer(name, model_path, arguments) for name in arguments.contenders}

    def steps(run: Callable[..., None]) -> dict[str, Callable[[], None]]:
        return {name: partial(run, name, trainer, arguments) for name, trainer in trainers.items()}

    found: dict[str, Any] = {"seconds": interleaved(steps(run_step), arguments.repeats)}
    if arguments.generate:
        found["seconds_with_generation"] = interleaved(steps(run_whole_step), arguments.generate, warm_up=0)
    if {"dgpo", "grpo_ours"} <= set(trainers):
        found["dgpo_over_grpo_ours_seconds"] = breakdown(steps(run_step), trainers, arguments.repeats)
    return found


def measure_memory(contender: str, model_path: str, arguments: argparse.Namespace) -> dict[str, float]:
    """MiB that steps need at their peak above the model, its reference and its gradients: resident, and by torch."""
    trainer = build_trainer(contender, model_path, arguments)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with peak_memory(arguments.device) as peak:
        for _ in range(2):
            run_step(contender, trainer, arguments)
    if arguments.device == "cuda":
        return {"peak_mib": peak.mib, "allocated_mib": peak.mib}
    with allocated_memory() as allocated:
        run_step(contender, trainer, arguments)
    return {"peak_mib": peak.mib, "allocated_mib": allocated.mib}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=49152)
    parser.add_argument("--hidden-size", type=int, default=576)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--completion-length", type=int, default=192)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--generate", type=int, default=2, help="repeats of the step with generation; 0 for none")
    parser.add_argument("--sweep", action="store_true", help="let one size after the other grow")
    parser.add_argument("--live", nargs="+", type=float, metavar="SHARE", help="shares of completions with advantage")
    parser.add_argument("--padding", action="store_true", help="what padding costs, with sort_by_length and without")
    parser.add_argument("--skipping", action="store_true", help="steps of recipes, by skip_zero_advantage")
    parser.add_argument("--overlap", action="store_true", help="a step by overlap_reference, where rewards wait")
    parser.add_argument("--hints", action="store_true", help="a rollout and its update by GRPO, DGPO and hindsight")
    parser.add_argument("--head-copies", action="store_true", help="a step of the SmolLM2 recipe, by dgpo train's hook")
    parser.add_argument("--memory", nargs="+", choices=["float32", "bfloat16"], help="measure memory alone, by dtype")
    parser.add_argument("--save", type=Path, help="write the results as JSON")
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model-path", help=argparse.SUPPRESS)
    parser.set_defaults(share=1.0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of, arguments.model_path, arguments)))
        return
    settings = {k: v for k, v in vars(arguments).items() if k not in ("save", "memory_of", "model_path")}
    result: dict[str, Any] = {"settings": settings}
    if arguments.sweep:
        result["sweep"] = list(sweep(arguments))
    elif arguments.live:
        result["live"] = list(live(arguments))
    elif arguments.padding:
        result["padding"] = padding(arguments, build_trainer)
    elif arguments.skipping:
        result["skipping"] = skipping(arguments)
    elif arguments.overlap:
        result["overlap"] = overlap(arguments)
    elif arguments.hints:
        result["hints"] = hints(arguments, build_trainer, run_whole_step)
    elif arguments.head_copies:
        result["head_copies"] = head_copies(arguments)
    elif arguments.memory:
        result["memory"] = memory(arguments)
    else:
        result |= measure(arguments)
    save(arguments.save, result, "torch", "transformers", "trl")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one setting and print it."""
    with tempfile.TemporaryDirectory() as folder:
        model_path = build_model(arguments, Path(folder))
        found = measure_time(model_path, arguments) | measure_peaks(model_path, arguments)
    report(arguments, found)
    return found


def measure_peaks(model_path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory of each contender, one process each and repeat; medians, and all figures of the resident one."""
    sizes = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in SIZES]
    runs = {
        name: [
            own_process(*sizes, "--memory-of", name, "--model-path", model_path)
            for _ in range(1 if arguments.sweep else arguments.repeats)
        ]
        for name in arguments.contenders
    }
    medians = {
        kind: {name: statistics.median(run[kind] for run in each) for name, each in runs.items()}
        for kind in ("peak_mib", "allocated_mib")
    }
    return medians | {"peak_mib_all": {name: [run["peak_mib"] for run in each] for name, each in runs.items()}}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure memory alone, which takes no quiet machine."""
    found = {}
    for dtype in arguments.memory:
        arguments.dtype = dtype
        with tempfile.TemporaryDirectory() as folder:
            found[dtype] = measure_peaks(build_model(arguments, Path(folder)), arguments)
        for name, peak in found[dtype]["peak_mib"].items():
            allocated = found[dtype]["allocated_mib"][name]
            print(f"{dtype:9} {name:15} {peak:7.1f} MiB resident, {allocated:7.1f} by torch", flush=True)
    return found


def sweep(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure with one size after the other larger and smaller than asked for."""
    arguments.generate = 0
    arguments.contenders = [x for x in arguments.contenders if x in ("dgpo", "grpo_kl_ours", "grpo_kl_scored")]
    for name, values in SWEEP.items():
        for value in values:
            changed = argparse.Namespace(**{**vars(arguments), name: value})
            print(f"{name} = {value}")
            found = measure(changed)
            yield {"varied": name, "value": value, "peak_mib": found["peak_mib"],
                   "allocated_mib": found["allocated_mib"],
                   "seconds": {contender: spread(times) for contender, times in found["seconds"].items()}}  # fmt: skip


def live(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time a step by the share of completions that have an advantage."""
    arguments.generate, arguments.contenders = 0, LIVE_CONTENDERS
    with tempfile.TemporaryDirectory() as folder:
        model_path = build_model(arguments, Path(folder))
        for share in arguments.live:
            arguments.share = share
            seconds = {name: spread(times) for name, times in measure_time(model_path, arguments)["seconds"].items()}
            ratios = {name: seconds["dgpo"]["median"] / each["median"] for name, each in seconds.items()}
            print(f"live share {share}: DGPO / {ratios}", flush=True)
            yield {"share": share, "seconds": seconds, "dgpo_over": ratios}


def report(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print one setting as a table."""
    seconds, memory, whole = found["seconds"], found["peak_mib"], found.get("seconds_with_generation", {})
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    tokens = arguments.batch_size * arguments.completion_length * 3 // 4
    logits = tokens * arguments.vocab_size * 4 / 2**20
    print(f"one [N, V] tensor of the ~{tokens} trained tokens in float32: {logits:.0f} MiB")
    print(f"{'':15} {'median s':>9} {'min':>7} {'max':>7} {'dgpo / it':>10} {'peak MiB':>9} {'generating':>11}")
    for name, times in seconds.items():
        ratio = medians["dgpo"] / medians[name]
        generating = f"{statistics.median(whole[name]):11.3f}" if name in whole else ""
        print(
            f"{name:15} {medians[name]:9.3f} {min(times):7.3f} {max(times):7.3f} {ratio:10.2f} {memory[name]:9.0f} "
            f"{generating}",
            flush=True,
        )
    parts = dict(found.get("dgpo_over_grpo_ours_seconds", {}))
    base = parts.pop("grpo_ours", 1.0)
    for part, value in parts.items():
        print(f"  more than grpo_ours: {part:34} {value:7.3f} s ({value / base:.1%} of its step)")


if __name__ == "__main__":
    main()
