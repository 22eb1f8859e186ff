"""verl's FSDP and FSDP2 engines with a streamed LM head: no pass of them holds logits of (tokens, vocabulary)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from dgpo.engines.verl.heads import HeadSeam, KeepHidden, ReferenceHead, ScoreTokens
from dgpo.errors import TrainingError

CREDIT_PASS = "dgpo_credit"
"""Key of the flag in a batch: this forward-only pass also scores the reference."""

BACKENDS = ("fsdp", "fsdp2")


class HeadStatistics:
    """Mixin for an engine with LM head: log-probabilities, entropy and credit from streamed head statistics.

    Every pass gets log-probabilities and entropy from `dgpo.lm_head`, with gradient in the update. A forward-only pass
    whose batch carries `CREDIT_PASS` scores the reference as well, micro-batch by micro-batch, and returns
    `hellinger_sq` and `ref_log_probs` beside `log_probs` and `entropy`.

    Attributes:
        reference_engine: The engine of the frozen reference; None: this model with its adapter switched off.
    """

    reference_engine: Optional["HeadStatistics"] = None
    # Of the engine that this is mixed into.
    module: Any
    _is_lora: bool
    _autocast_dtype: torch.dtype

    _seam: HeadSeam
    _task: ScoreTokens | None = None  # of the micro-batch being computed
    _reference: ReferenceHead | None = None
    _kept_head: tuple[Tensor, Tensor | None] | None = None  # of the reference, for the length of one pass
    _head_has_run: bool = False

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head, which d and h run over."""
        return self._seam.vocab_size

    def _build_module(self) -> Any:
        """Build the model and take the place of its head, before anything wraps it."""
        module = super()._build_module()  # type: ignore[misc]
        self._seam = HeadSeam(module)
        return module

    def forward_backward_batch(self, data: TensorDict, loss_function: Callable, forward_only: bool = False) -> Any:
        """Run verl's loop over micro-batches; in a credit pass with the reference awake."""
        awake: AbstractContextManager = nullcontext()
        if forward_only and _is_credit_pass(data):
            if self.reference_engine is not None:
                awake = self.reference_engine.eval_mode()  # type: ignore[attr-defined]
            elif not self._is_lora:
                raise TrainingError("A credit pass was asked of an engine without a reference and without an adapter.")
        try:
            with awake:
                return super().forward_backward_batch(data, loss_function, forward_only)  # type: ignore[misc]
        finally:
            self._kept_head = None

    def forward_step(self, micro_batch: TensorDict, loss_function: Callable | None, forward_only: bool) -> Any:
        """Compute one micro-batch; in a credit pass the reference comes first."""
        if forward_only and _is_credit_pass(micro_batch):
            self._reference = self._score_reference(micro_batch)
        try:
            return super().forward_step(micro_batch, loss_function, forward_only)  # type: ignore[misc]
        finally:
            self._task = self._reference = None
            self._seam.answer_with(None)
            self._head_has_run = True

    def prepare_model_inputs(self, micro_batch: TensorDict) -> Any:
        """Prepare verl's inputs, and the head for what will be asked of it."""
        inputs, output_args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        positions = inputs["attention_mask"]
        self._task = ScoreTokens(
            targets=output_args["input_ids_rmpad_rolled"],
            temperature=_temperature(micro_batch),
            positions=None if positions is None else positions.bool(),
            reference=self._reference,
        )
        self._seam.answer_with(self._task)
        return inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Return the statistics under verl's names, as nested tensors over whole sequences."""
        task = self._task
        assert task is not None, "prepare_model_inputs comes first"
        columns = task.columns(output.logits)
        columns = self._gather_and_unpad_packed(columns, output_args.get("pad_size", 0))  # type: ignore[attr-defined]
        offsets = micro_batch["input_ids"].offsets()
        wants_entropy = tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False)
        return {
            name: torch.nested.nested_tensor_from_jagged(values, offsets)
            for name, values in zip(task.names, columns.unbind(-1), strict=True)
            if name != "entropy" or wants_entropy or task.reference is not None
        }

    def _score_reference(self, micro_batch: TensorDict) -> ReferenceHead:
        """Return the reference's hidden states for a micro-batch, with its head where it is not the policy's.

        The head of a reference of its own is gathered and copied at the first micro-batch of a pass, and stepped over
        at the others.
        """
        inputs, _ = super().prepare_model_inputs(micro_batch.to(get_device_id()))  # type: ignore[misc]
        engine = self.reference_engine or self
        owns_head = engine is not self
        without_adapter: AbstractContextManager = (
            nullcontext() if owns_head else self.disable_adapter()  # type: ignore[attr-defined]
        )
        keep = KeepHidden(copies_head=owns_head and self._kept_head is None)
        # FSDP2 finds the modules it wraps in the first forward pass: the head has to be among them.
        steps_over = engine._head_has_run and not keep.copies_head
        seam = engine._seam
        with without_adapter, engine._autocast(), seam.stepped_over(keep) if steps_over else seam.answering(keep):
            engine.module(**inputs, use_cache=False)
        engine._head_has_run = True
        if keep.head is not None:
            self._kept_head = keep.head
        if keep.hidden is None:
            raise TrainingError("The reference's forward pass did not call its LM head; DGPO needs its hidden states.")
        weight, bias = self._kept_head or (None, None)
        return ReferenceHead(keep.hidden, weight, bias)

    def _autocast(self) -> AbstractContextManager:
        """Cast as verl's `forward_step` does."""
        if self._autocast_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)


class DGPOFSDPEngine(HeadStatistics, FSDPEngineWithLMHead):
    """verl's FSDP and FSDP2 engine with a streamed head."""


def register_engines() -> None:
    """Let this process build `DGPOFSDPEngine` where verl would build its own; the others of verl's engines stay.

    Called by the workers of a DGPO run alone, so that runs without DGPO keep verl's engines.

    Raises:
        TrainingError: If another plugin has taken the place.
    """
    from verl.plugin.platform import get_platform

    platform = get_platform()
    for backend in BACKENDS:
        # A key with a vendor precedes verl's own, which have none.
        registered = EngineRegistry._engines["language_model"][backend].get(
            (platform.device_name, platform.vendor_name)
        )
        if registered is DGPOFSDPEngine:
            continue
        if registered is not None:
            raise TrainingError(
                f"{registered.__module__}.{registered.__name__} is registered as verl's {backend} engine for"
                f" {platform.vendor_name}: DGPO cannot take its place. Uninstall that plugin, or name the plugins to"
                " load in VERL_USE_EXTERNAL_PLUGINS."
            )
        EngineRegistry.register("language_model", backend, device=platform.device_name, vendor=platform.vendor_name)(
            DGPOFSDPEngine
        )


def _is_credit_pass(data: TensorDict) -> bool:
    return bool(tu.get_non_tensor_data(data, CREDIT_PASS, default=False))


def _temperature(micro_batch: TensorDict) -> float:
    """Return the one temperature of a micro-batch."""
    temperature = micro_batch["temperature"]
    if not isinstance(temperature, Tensor):
        return float(temperature)
    low, high = temperature.min().item(), temperature.max().item()
    if low != high:
        raise TrainingError(
            f"The samples of a micro-batch have temperatures from {low:g} to {high:g}; DGPO compares distributions at"
            " one temperature. Sample all of them with actor_rollout_ref.rollout.temperature."
        )
    return low
