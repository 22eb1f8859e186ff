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

from dgpo.engines.verl.compat import check_megatron
from dgpo.engines.verl.heads import CREDIT_COLUMNS, POLICY_COLUMNS, HeadFunction, HeadHook, ReferenceHead, ScoreTokens
from dgpo.engines.verl.hindsight import (
    COMPARED_IDS,
    HINTED_IDS,
    asks_for_hints,
    hindsight_output,
    response_positions,
    sequences_of,
)
from dgpo.engines.verl.live import SKIP, leave_out
from dgpo.errors import TrainingError

CREDIT_PASS = "dgpo_credit"
"""Key of the flag in a batch: this forward-only pass also scores the reference."""

BACKENDS = ("fsdp", "fsdp2")


class HeadStatistics:
    """Mixin for an engine with LM head: log-probabilities, entropy and credit statistics from a streamed head.

    Every pass gets log-probabilities and entropy from `dgpo.lm_head`, with gradient in the update. A forward-only pass
    whose batch carries `CREDIT_PASS` scores the reference as well, micro-batch by micro-batch, and returns
    `hellinger_sq` and `ref_log_probs` beside `log_probs` and `entropy`. One with `HINT_PASS` leaves the policy out and
    compares the reference after a hint with itself.

    Attributes:
        reference_engine: The engine of the frozen reference; None: this model with its adapter switched off.
    """

    reference_engine: Optional["HeadStatistics"] = None
    # Of the engine that this is mixed into.
    module: Any
    _is_lora: bool
    _autocast_dtype: torch.dtype

    _head: HeadHook
    _reference: ReferenceHead | None = None  # for the length of a credit pass
    _scoring: ScoreTokens | None = None  # of the micro-batch being computed

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head, which d and h run over."""
        return self._head.vocab_size

    def _build_module(self) -> Any:
        """Build the model and hook its head, before anything wraps it."""
        module = super()._build_module()
        self._head = HeadHook(module)
        return module

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool = False
    ) -> Any:
        """Run verl's loop over micro-batches; in a credit pass with the reference ready to be scored."""
        is_hint_pass = asks_for_hints(data)
        if not (forward_only and (is_hint_pass or carries(data, CREDIT_PASS))):
            return super().forward_backward_batch(data, loss_function, forward_only)
        if self.reference_engine is None and not self._is_lora:
            raise TrainingError("A credit pass was asked of an engine without a reference and without an adapter.")
        in_eval_mode: AbstractContextManager[Any] = nullcontext()
        if self.reference_engine is not None:
            in_eval_mode = self.reference_engine.eval_mode()  # type: ignore[attr-defined]
        if is_hint_pass:
            data = sequences_of(data, HINTED_IDS)  # verl cuts micro-batches by the lengths that the pass has
        else:
            self._reference = ReferenceHead(has_weight=self.reference_engine is not None)
        try:
            with in_eval_mode:
                return super().forward_backward_batch(data, loss_function, forward_only)
        finally:
            self._reference = None

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool
    ) -> Any:
        """Compute one micro-batch: the reference first in a credit pass, then verl's step with the head hooked.

        An update whose batch carries `SKIP` runs the model on completions with an advantage alone.
        """
        micro_batch = micro_batch.to(get_device_id())
        if asks_for_hints(micro_batch):
            return self._compare_hinted(micro_batch)
        if loss_function is not None and not forward_only and carries(micro_batch, SKIP):
            micro_batch, loss_function = leave_out(micro_batch, loss_function)
        self._scoring = self._prepare_scoring(micro_batch)
        try:
            with self._head.replace(self._scoring):
                return super().forward_step(micro_batch, loss_function, forward_only)
        finally:
            self._scoring = None

    def _prepare_scoring(self, micro_batch: TensorDict) -> ScoreTokens:
        """Return what computes the statistics of a micro-batch, with the reference already run in a credit pass."""
        inputs, output_args = self.prepare_model_inputs(micro_batch)  # type: ignore[attr-defined]
        if self._reference is not None:
            self._capture_reference(inputs, self._reference)
        positions = inputs["attention_mask"]
        return ScoreTokens(
            targets=output_args["input_ids_rmpad_rolled"],
            temperature=_temperature(micro_batch),
            positions=None if positions is None else positions.bool(),
            reference=self._reference,
        )

    def _compare_hinted(self, micro_batch: TensorDict) -> Any:
        """Compute one micro-batch of a hint pass: the reference on what is compared with, then with the hint."""
        responses, found = micro_batch["responses"], []
        for name in (COMPARED_IDS, "input_ids"):
            sequences = sequences_of(micro_batch, name)
            inputs, _ = self.prepare_model_inputs(sequences)  # type: ignore[attr-defined]
            found.append((inputs, response_positions(inputs, sequences["input_ids"], responses)))
        (plain_inputs, ref_positions), (inputs, positions) = found
        plain = ReferenceHead(has_weight=False)  # its head is that of the hinted pass
        self._capture_reference(plain_inputs, plain)
        scoring = ScoreTokens(responses.values(), _temperature(micro_batch), positions, plain, ref_positions)
        output = self._run_reference(inputs, scoring, needs_weight=True)
        return hindsight_output(scoring.columns(output.logits), responses)

    def _capture_reference(self, inputs: dict[str, Any], reference: ReferenceHead) -> None:
        """Capture the reference's hidden states for a micro-batch.

        The head of a reference that is a model of its own is gathered and copied at the first micro-batch of a pass,
        and bypassed at the others.
        """
        reference.hidden = None
        self._run_reference(inputs, reference.capture, needs_weight=reference.needs_weight)
        if reference.hidden is None:
            raise TrainingError("The reference's forward pass did not call its LM head; DGPO needs its hidden states.")

    def _run_reference(self, inputs: dict[str, Any], function: HeadFunction, *, needs_weight: bool) -> Any:
        """Run the reference with a function in the place of its head, and return the model's output."""
        engine = self.reference_engine or self
        # FSDP2 finds the modules it wraps in the first forward pass: the head has to be among them.
        can_bypass = engine._head.has_run and not needs_weight
        head = engine._head.bypass(function) if can_bypass else engine._head.replace(function)
        without_adapter: AbstractContextManager[Any] = nullcontext()
        if engine is self:
            without_adapter = self.disable_adapter()  # type: ignore[attr-defined]
        with without_adapter, engine._autocast(), head:
            return engine.module(**inputs, use_cache=False)

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Return the statistics under verl's names, as nested tensors over whole sequences."""
        scoring = self._scoring
        assert scoring is not None, "verl calls this from forward_step"
        columns = scoring.columns(output.logits)
        columns = self._gather_and_unpad_packed(columns, output_args.get("pad_size", 0))  # type: ignore[attr-defined]
        return named_statistics(columns, micro_batch)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Cast as verl's `forward_step` does."""
        if self._autocast_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)


class DGPOFSDPEngine(HeadStatistics, FSDPEngineWithLMHead):
    """verl's FSDP and FSDP2 engine with a streamed head."""


def register_engines(strategy: str) -> type[Any]:
    """Let this process build DGPO's engine where verl would build its own; the others of verl's engines stay.

    Called by the workers of a DGPO run alone, so that runs without DGPO keep verl's engines.

    Args:
        strategy: The actor's: "fsdp" or "fsdp2", or "megatron".

    Returns:
        The engine.

    Raises:
        TrainingError: If another plugin has taken the place.
    """
    from verl.plugin.platform import get_platform

    platform = get_platform()
    engine, backends = _engine_of(strategy)
    for backend in backends:
        # A key with a vendor precedes verl's own, which have none.
        registered = EngineRegistry._engines["language_model"][backend].get(
            (platform.device_name, platform.vendor_name)
        )
        if registered is engine:
            continue
        if registered is not None:
            raise TrainingError(
                f"{registered.__module__}.{registered.__name__} is registered as verl's {backend} engine for"
                f" {platform.vendor_name}: DGPO cannot take its place. Uninstall that plugin, or name the plugins to"
                " load in VERL_USE_EXTERNAL_PLUGINS."
            )
        EngineRegistry.register("language_model", backend, device=platform.device_name, vendor=platform.vendor_name)(
            engine
        )
    return engine


def _engine_of(strategy: str) -> tuple[type[Any], tuple[str, ...]]:
    """Return DGPO's engine for a strategy, and the names under which verl looks for it."""
    if strategy != "megatron":
        return DGPOFSDPEngine, BACKENDS
    check_megatron()
    from dgpo.engines.verl.megatron import DGPOMegatronEngine  # megatron-core need not be there otherwise

    return DGPOMegatronEngine, ("megatron",)


def carries(data: TensorDict, flag: str) -> bool:
    """Return whether a batch has a flag, and it is set."""
    return bool(tu.get_non_tensor_data(data, flag, default=False))


def named_statistics(columns: Tensor, micro_batch: TensorDict) -> dict[str, Tensor]:
    """Return the statistics of a micro-batch's tokens under verl's names.

    Args:
        columns: (N, columns), of the policy alone or of both.
        micro_batch: Verl's; without `calculate_entropy` that of the policy alone is left out.

    Returns:
        Nested tensors over whole sequences.
    """
    has_reference = columns.shape[-1] == len(CREDIT_COLUMNS)
    names = CREDIT_COLUMNS if has_reference else POLICY_COLUMNS
    wants_entropy = has_reference or carries(micro_batch, "calculate_entropy")
    return {
        name: torch.nested.nested_tensor_from_jagged(values, micro_batch["input_ids"].offsets())
        for name, values in zip(names, columns.unbind(-1), strict=True)
        if name != "entropy" or wants_entropy
    }


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
