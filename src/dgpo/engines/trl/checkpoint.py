"""What TRL does not save with a checkpoint, so that a resumed run ends with the same parameters, bit for bit.

TRL restarts its micro-step counter at 0 and drops the buffered rollouts, so a run resumed inside of a generation window
is out of phase for good; and the weights of a moving reference (`sync_ref_model`) are not saved at all. All three go
into `checkpoint-N/dgpo_state/`, as safetensors.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from dgpo.checkpoint_files import PROMISE, STATE_FOLDER, checkpoint_fault, find_checkpoints, write_checksums
from dgpo.engines.trl import checks
from dgpo.errors import TrainingError, UnsupportedVersionError
from dgpo.versions import release_of

logger = logging.getLogger(__name__)

_STEP = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)/?$")


def save_rollout_state(
    checkpoint: Path, rank: int, step: int, buffer: list[dict[str, Any]] | None, layout: dict[str, int]
) -> None:
    """Write the micro-step counter and the buffered rollouts of one rank.

    Args:
        checkpoint: The checkpoint's folder; made if absent.
        rank: Index of the process.
        step: TRL's count of forward and backward passes (`_step`).
        buffer: TRL's buffered batches (`_buffered_inputs`): dictionaries of tensors and `None`.
        layout: What the counter and the buffer depend on: numbers of processes, steps per generation and so on.

    Raises:
        TrainingError: If the buffer holds something else than tensors, whose restoration could not be exact.
    """
    tensors: dict[str, Tensor] = {}
    for index, batch in enumerate(buffer or []):
        for name, value in batch.items():
            if isinstance(value, Tensor):
                # Slices of one generation batch share storage, which safetensors refuses.
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous().clone()
            elif value is not None:
                raise TrainingError(
                    f"The rollout buffer holds {name!r} of type {type(value).__name__}, which cannot be saved,"
                    " so that no run could be resumed exactly. Set save_strategy='no', or save_only_model=True."
                )
    facts = {"step": step, "num_batches": None if buffer is None else len(buffer), "layout": layout, PROMISE: True}
    _write(checkpoint / STATE_FOLDER / f"rank_{rank}.safetensors", tensors, facts)


def load_rollout_state(
    checkpoint: Path, rank: int, device: torch.device
) -> tuple[int, list[dict[str, Any]] | None, dict[str, int]] | None:
    """Return the counter, the buffer and the layout that were written, or `None` where nothing was."""
    path = checkpoint / STATE_FOLDER / f"rank_{rank}.safetensors"
    if not path.exists():
        return None
    with safe_open(str(path), framework="pt", device="cpu") as file:
        facts = json.loads(file.metadata()["dgpo"])
        if facts["num_batches"] is None:
            return facts["step"], None, facts["layout"]
        buffer: list[dict[str, Any]] = [{} for _ in range(facts["num_batches"])]
        for key in file.keys():  # noqa: SIM118  a safetensors file is not a dictionary
            index, _, name = key.partition(".")
            buffer[int(index)][name] = file.get_tensor(key).to(device)
    return facts["step"], buffer, facts["layout"]


def save_reference(checkpoint: Path, rank: int, reference: nn.Module, *, sharded: bool) -> None:
    """Write the parameters of a moving reference: each rank its shard, or the main process all of them."""
    if not sharded and rank != 0:
        return
    tensors = {name: _local(p).detach().cpu().contiguous().clone() for name, p in reference.named_parameters()}
    _write(_reference_path(checkpoint, rank, sharded), tensors, {"sharded": sharded})


def load_reference(checkpoint: Path, rank: int, reference: nn.Module, *, sharded: bool) -> None:
    """Restore the parameters that `save_reference` wrote.

    Args:
        checkpoint: The checkpoint's folder.
        rank: Index of the process.
        reference: The model to restore, in place.
        sharded: Whether each rank holds a shard.

    Raises:
        TrainingError: If the file is absent or was written by another number of processes.
    """
    path = _reference_path(checkpoint, rank, sharded)
    if not path.exists():
        raise TrainingError(
            f"{path} is missing: the checkpoint does not hold the moving reference, which sync_ref_model needs (was"
            " save_only_model set?). Resume from another checkpoint, or start a new run."
        )
    with safe_open(str(path), framework="pt", device="cpu") as file, torch.no_grad():
        for name, parameter in reference.named_parameters():
            _local(parameter).copy_(file.get_tensor(name))


def _reference_path(checkpoint: Path, rank: int, sharded: bool) -> Path:
    return checkpoint / STATE_FOLDER / (f"reference_rank_{rank}.safetensors" if sharded else "reference.safetensors")


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write atomically, so that a killed process leaves no half file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, str(partial), metadata={"dgpo": json.dumps(facts)})
    partial.replace(path)


class ExactResume:
    """Mixin of `DGPOTrainer`: checkpoints that a run continues from to the same parameters, bit for bit."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    is_fsdp_enabled: bool
    model: Any
    ref_model: Any
    state: Any
    _buffered_inputs: Any
    _step: int
    _get_output_dir: Any
    _on_any_rank: Any
    _train_sampler: Any = None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Keep hold of TRL's sampler, whose order of prompts a resumed run has to continue."""
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _layout(self) -> dict[str, int]:
        """What must not change between a checkpoint and the run that continues it."""
        names = ("steps_per_generation", "num_iterations", "per_device_train_batch_size", "gradient_accumulation_steps")
        return {"num_processes": self.accelerator.num_processes, **{name: getattr(self.args, name) for name in names}}

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; of `resume_from_checkpoint=True`, the newest checkpoint that is whole, and none that is damaged."""
        if resume_from_checkpoint:
            resume_from_checkpoint = self._whole_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _whole_checkpoint(self, wanted: str | Literal[True]) -> str:
        """Return the checkpoint to resume from, the same on every rank; raise on every rank if it is damaged."""
        found: list[str | None] = [None, None]
        if self.accelerator.is_main_process:
            try:
                found[0] = self._choose_checkpoint(wanted)
            except TrainingError as error:
                found[1] = str(error)
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        if found[0] is None:
            raise TrainingError(found[1])
        return found[0]

    def _choose_checkpoint(self, wanted: str | Literal[True]) -> str:
        if wanted is not True:
            step = _STEP.search(str(wanted))
            fault = checkpoint_fault(Path(wanted), int(step[1]), weights_alone=True) if step else None
            if fault is not None:
                raise TrainingError(f"The checkpoint {wanted} is not whole: {fault}. Resume from an older one.")
            return str(wanted)
        found = find_checkpoints(Path(self.args.output_dir), weights_alone=True)
        listed = "; ".join(f"{name}: {fault}" for name, fault in found.incomplete.items())
        if found.newest is None:
            raise TrainingError(
                f"There is no whole checkpoint in {self.args.output_dir}{f' ({listed})' if listed else ''}."
                " Start anew, without resume_from_checkpoint."
            )
        if listed:
            logger.warning("Resuming from %s; passed over: %s.", found.newest, listed)
        return str(found.newest)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save what TRL leaves out, then TRL's files, then checksums of all; only then may older ones be deleted."""
        finite = all(bool(torch.isfinite(p.detach()).all()) for p in self.model.parameters() if p.requires_grad)
        if self._on_any_rank(not finite):
            raise checks.non_finite_error("A parameter", self.state.global_step, self.args.output_dir)
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not self.args.save_only_model:
            self._on_every_rank(lambda: self._save_state(folder))
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            self._on_every_rank(lambda: super(ExactResume, self)._save_checkpoint(model, trial))
        finally:
            self.args.save_total_limit = limit
        self._on_every_rank(lambda: write_checksums(folder) if self.args.should_save else None)
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(run), limit, best_model_checkpoint=best, use_mtime=True)

    def _on_every_rank(self, write: Callable[[], None]) -> None:
        """Write a part of a checkpoint; raise on every rank what one of them raised, so that none waits for another."""
        failure: Exception | None = None
        try:
            write()
        except Exception as error:
            failure = error
        if self._on_any_rank(failure is not None):
            raise failure or TrainingError("Another process could not write its part of the checkpoint.")

    def _save_state(self, checkpoint: Path) -> None:
        rank = self.accelerator.process_index
        save_rollout_state(checkpoint, rank, self._step, self._buffered_inputs, self._layout())
        if self.args.sync_ref_model:
            reference = self.accelerator.unwrap_model(self.ref_model)
            save_reference(checkpoint, rank, reference, sharded=self.is_fsdp_enabled)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore what `_save_checkpoint` saved, where TRL restores its own."""
        is_on_cpu = self.accelerator.device.type == "cpu"
        if checkpoint and is_on_cpu and self.args.world_size > 1 and release_of(transformers.__version__, 2) < (5, 18):
            raise UnsupportedVersionError(
                f"transformers {transformers.__version__} cannot load an optimizer on several processes of a CPU; 5.18"
                f" can. Upgrade it, and resume from {checkpoint} again."
            )
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder, rank = Path(checkpoint), self.accelerator.process_index
        if self.args.sync_ref_model:
            reference = self.accelerator.unwrap_model(self.ref_model)
            load_reference(folder, rank, reference, sharded=self.is_fsdp_enabled)
        saved = load_rollout_state(folder, rank, self.accelerator.device)
        is_missing = self._on_any_rank(saved is None)
        if is_missing and not self._on_any_rank(saved is not None):
            logger.warning("%s holds no state of DGPOTrainer (save_only_model?): resuming is not exact.", checkpoint)
            return
        if is_missing or saved is None or self._on_any_rank(saved[2] != self._layout()):
            before = saved[2] if saved is not None else "another number of processes"
            raise TrainingError(
                f"{checkpoint} was saved with {before}, and this run has {self._layout()}: its rollouts do not fit."
                " Resume with the same, or start a new run from its weights."
            )
        self._step, self._buffered_inputs, _ = saved
        self._skip_past_epochs(folder)

    def _skip_past_epochs(self, checkpoint: Path) -> None:
        """Bring the sampler's generator to where it was: it draws one order of the prompts an epoch."""
        epoch = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).epoch or 0.0
        for _ in range(int(epoch + 1e-6) if self._train_sampler is not None else 0):
            next(iter(self._train_sampler), None)
