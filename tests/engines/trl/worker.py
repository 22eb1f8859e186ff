"""Trainings in processes of their own: ranks that must agree, and runs that are killed and resumed.

Each function is called in a forked child, which forks a process for each rank, so that a killed run takes nothing else
with it. Results are written to the folder.
"""

import faulthandler
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from support import (
    FixedDGPOTrainer,
    FixedGRPOTrainer,
    KillAfterCheckpoint,
    lora,
    make_trainer,
    mostly_dead_reward,
    parameters,
    spread_reward,
)

from dgpo import DGPOTrainer
from process_groups import wait_for_all_ranks

TIMEOUT_SECONDS = 400


def fork_ranks(run: Callable[[int], None], world_size: int) -> list[int]:
    """Run `run(rank)` in `world_size` forked processes and return their exit codes (negative: the signal)."""
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would leave their locks behind, perhaps closed"
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(world_size):
            child = os.fork()
            if child == 0:
                _be_rank(run, rank, world_size, folder)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(f"exit codes of the ranks: {codes}", file=sys.stderr)
    return codes


def _be_rank(run: Callable[[int], None], rank: int, world_size: int, folder: str) -> None:
    """Run as one rank and end the process; a rank that hangs says where, and ends as well."""
    code = 1
    try:
        faulthandler.dump_traceback_later(TIMEOUT_SECONDS, exit=True)
        torch.set_num_threads(1)
        if world_size > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true")
            # By a file: a port that is looked for, released and used later may be anybody's by then.
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
        run(rank)
        wait_for_all_ranks(dist.FileStore(f"{folder}/done", world_size), rank, world_size)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ---------------------------------------------------------------------------------------------- ranks

RANK_CASES = {
    f"{loss_type}-{accumulation}-{'lora' if adapter else 'full'}-{credit}": (loss_type, accumulation, adapter, credit)
    for loss_type, accumulation, adapter, credit in [
        ("grpo", 1, False, "current"),
        ("dapo", 1, False, "current"),
        ("dr_grpo", 1, False, "current"),
        ("dapo", 2, False, "current"),
        ("dapo", 1, True, "current"),
        ("dapo", 1, False, "old"),
    ]
}
DEAD_CASES = {f"{name}-dead": RANK_CASES[name] for name in ("grpo-1-full-current", "dapo-1-lora-current")}
RANK_CASES |= DEAD_CASES  # with groups of equal rewards, so that a rank may have nothing to score
RANK_CASES["sorted"] = RANK_CASES["dapo-2-full-current"]  # by length
HINDSIGHT_CASES = ("prompt", "peer")  # hints, and groups that are spread over the ranks
RANK_CASES |= dict.fromkeys(HINDSIGHT_CASES, RANK_CASES["dapo-1-full-current"])
HINDSIGHT = {"credit_rule": "hindsight", "hint_min_reward": 0.6, "num_generations": 8}


def train_ranks(folder: Path, checkpoint: str, world_size: int) -> None:
    """Train each case on the same global batches and save gradients and metrics of the main process."""

    def run(rank: int) -> None:
        results = {}
        for name, (loss_type, accumulation, adapter, credit) in RANK_CASES.items():
            options = {"num_iterations": 2} if credit == "old" or (adapter and name not in DEAD_CASES) else {}
            is_hinted = name in HINDSIGHT_CASES
            options |= HINDSIGHT | {"hint": name} if is_hinted else {"tau": 0.05}
            trainer = make_trainer(
                FixedDGPOTrainer,
                checkpoint,
                folder / f"{name}-{world_size}",
                perturb=0.05,
                reward=mostly_dead_reward if name in DEAD_CASES else spread_reward,
                peft_config=lora() if adapter else None,
                loss_type=loss_type,
                gradient_accumulation_steps=accumulation,
                per_device_train_batch_size=(24 if is_hinted else 8) // world_size,
                credit_policy=credit,
                sort_by_length=name == "sorted",
                overlap_reference=name == "sorted",
                **options,
            )
            trainer.train()
            results[name] = (trainer.recorder.gradients, trainer.recorder.steps)
        if rank == 0:
            torch.save(results, folder / f"ranks_{world_size}.pt")

    assert fork_ranks(run, world_size) == [0] * world_size


# ---------------------------------------------------------------------------------------------- FSDP2

SHARDED_CASES = {
    "full": {},
    "lora": {"peft_config": lora()},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "moving reference": {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.6},
    "dead groups": {"reward": mostly_dead_reward},
    "several iterations": {"num_iterations": 2, "gradient_accumulation_steps": 2},  # the reference's states are kept
}


def train_sharded(folder: Path, checkpoint: str, world_size: int) -> None:
    """Train each case with the model and its reference sharded by FSDP2, or on one process."""

    def pretend() -> None:
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        # accelerate wraps CPU processes in DDP and never in FSDP; the name of another device lets it through.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU

    def run(rank: int) -> None:
        results = {}
        options: dict = {}
        if world_size > 1:
            layers = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
            options = {"fsdp": "full_shard auto_wrap", "fsdp_config": layers, "after_config": pretend}
        for name, case in SHARDED_CASES.items():
            trainer = make_trainer(
                FixedDGPOTrainer,
                checkpoint,
                folder / f"{name.replace(' ', '_')}-{world_size}",
                perturb=0.05,
                loss_type="grpo",
                tau=0.05,
                per_device_train_batch_size=8 // world_size,
                **case,
                **options,
            )
            trainer.train()
            assert trainer.is_fsdp_enabled == (world_size > 1)
            results[name] = (trainer.recorder.gradients, trainer.recorder.steps)
        if rank == 0:
            torch.save(results, folder / f"sharded_{world_size}.pt")

    assert fork_ranks(run, world_size) == [0] * world_size


# ---------------------------------------------------------------------------------------------- watch

WATCHED_CASES = {
    "reference": ({"beta": 0.1}, False),
    "lora": ({"peft_config": lora()}, False),
    "sharded none": ({}, True),
    "sharded reference": ({"beta": 0.1, "gradient_accumulation_steps": 2}, True),
    "sharded lora": ({"peft_config": lora()}, True),
    "sharded named": ({"named": True}, True),
}


def train_watched(folder: Path, checkpoint: str, world_size: int) -> None:
    """Train each case with `dgpo.watch` and without, on ranks that share the model or hold a copy each."""
    import dgpo

    def pretend() -> None:
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU

    def run(rank: int) -> None:
        results = {}
        for name, (case, sharded) in WATCHED_CASES.items():
            options = {key: value for key, value in case.items() if key != "named"}
            if sharded and world_size > 1:
                layers = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
                options |= {"fsdp": "full_shard auto_wrap", "fsdp_config": layers, "after_config": pretend}
            for is_watched in (True,) if world_size == 1 else (False, True):
                output = folder / f"{name.replace(' ', '_')}-{world_size}-{is_watched}"
                batch = 8 // world_size // options.get("gradient_accumulation_steps", 1)
                trainer = make_trainer(
                    FixedGRPOTrainer,
                    checkpoint,
                    output,
                    perturb=0.05,
                    loss_type="grpo",
                    per_device_train_batch_size=batch,
                    **options,
                )
                if is_watched:
                    dgpo.watch(trainer, every=2, reference=checkpoint if case.get("named") else "auto")
                trainer.train()
                assert trainer.is_fsdp_enabled == (sharded and world_size > 1)
                results[name, is_watched] = trainer.recorder.gradients
        if rank == 0:
            torch.save(results, folder / f"watched_{world_size}.pt")

    assert fork_ranks(run, world_size) == [0] * world_size


# ---------------------------------------------------------------------------------------------- resume

# "off": checkpoints fall inside of a generation window of 4 micro-steps.
RESUME_CASES = {
    "boundary": {"save_steps": 3},
    "off boundary": {"save_steps": 3, "steps_per_generation": 4},
    "iterations": {"save_steps": 3, "num_iterations": 2, "credit_policy": "old"},
    "second epoch": {"save_steps": 3, "rows": 2},
    "epoch boundary": {"save_steps": 3, "rows": 3},
    "moving reference": {
        "save_steps": 3,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.6,
    },
}


def train_resume(folder: Path, checkpoint: str, world_size: int) -> None:
    """Train each case uninterrupted, killed at step 4, and resumed from step 3, with real generation and Adam."""

    def run_case(name: str, output: str, rank: int, *, kill: bool = False, resume: bool = False) -> torch.Tensor:
        directory = folder / f"{output}-{name.replace(' ', '_')}-{world_size}"
        trainer = make_trainer(
            DGPOTrainer,
            checkpoint,
            directory,
            optim="adamw_torch",
            learning_rate=3e-3,
            max_steps=6,
            per_device_train_batch_size=4,
            save_strategy="steps",
            temperature=1.0,
            lr_scheduler_type="linear",
            callbacks=(KillAfterCheckpoint(4, directory.with_suffix(".killed")),) if kill else (),
            **RESUME_CASES[name],
        )
        trainer.train(resume_from_checkpoint=resume or None)
        return parameters(trainer)

    def finish(rank: int, results: dict, file: str) -> None:
        if rank == 0:
            torch.save(results, folder / file)

    def uninterrupted(rank: int) -> None:
        finish(rank, {name: run_case(name, "whole", rank) for name in RESUME_CASES}, f"whole_{world_size}.pt")

    def resumed(rank: int) -> None:
        results = {name: run_case(name, "killed", rank, resume=True) for name in RESUME_CASES}
        finish(rank, results, f"resumed_{world_size}.pt")

    assert fork_ranks(uninterrupted, world_size) == [0] * world_size
    for name in RESUME_CASES:
        codes = fork_ranks(lambda rank, name=name: run_case(name, "killed", rank, kill=True), world_size)
        assert codes == [-signal.SIGKILL] * world_size
    assert fork_ranks(resumed, world_size) == [0] * world_size
