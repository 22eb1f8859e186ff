"""verl's Megatron engine with a streamed head, whose vocabulary is split over the tensor-parallel ranks.

verl's fused forward pass hands one function the hidden states of a micro-batch, this rank's rows of the output layer,
the labels and the tensor-parallel group, and takes log-probabilities and entropy from it. Inside of `answered_by` that
function is ours. Its statistics leave as columns of the log-probabilities, through verl's unpacking of sequences, and
are told apart in `prepare_model_outputs`. No pass holds logits.

A credit pass runs the reference's forward schedule first and keeps its last hidden states, one micro-batch after
another; the policy's schedule then meets the same micro-batches in the same order, whichever stages of a pipeline come
before.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from tensordict import TensorDict
from torch import Tensor
from verl.models.mcore import model_forward_fused
from verl.utils.device import get_device_id
from verl.utils.megatron_utils import unwrap_model
from verl.workers.engine.megatron.transformer_impl import MegatronEngineWithLMHead

from dgpo.core.ranks import gather_ranks
from dgpo.engines.verl.engine import CREDIT_PASS, carries, named_statistics
from dgpo.engines.verl.live import SKIP, leave_out
from dgpo.errors import TrainingError
from dgpo.lm_head import VocabParallel, lm_head_stats

LinearCrossEntropy = Callable[[Tensor, Tensor, Tensor, float, str, dist.ProcessGroup], tuple[Tensor, Tensor]]
"""What verl calls: hidden (S, 1, H), weight (V / ranks, H), labels (1, S), temperature, reduction and group."""


@contextmanager
def answered_by(function: LinearCrossEntropy) -> Iterator[None]:
    """Let a function answer verl's fused forward pass inside of the block."""
    theirs = model_forward_fused.linear_cross_entropy
    model_forward_fused.linear_cross_entropy = function
    try:
        yield
    finally:
        model_forward_fused.linear_cross_entropy = theirs


@dataclass
class ReferenceStates:
    """The reference's last hidden states, one micro-batch after another, and its rows of the head.

    Every tensor-parallel rank has the states of all tokens when verl calls, and keeps its share of them.

    Attributes:
        weight: (V / ranks, H), a copy: the reference's parameters may be moved to the host before it is used.
    """

    weight: Tensor | None = None
    _shares: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)  # labels, this rank's share of the states

    def __len__(self) -> int:
        return len(self._shares)

    def capture(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, _temperature: float, _reduction: str, group: Any
    ) -> tuple[Tensor, Tensor]:
        """Take the states of a micro-batch; return zeros in place of statistics."""
        if self.weight is None:
            self.weight = weight.detach().clone()
        rows = hidden.detach().flatten(0, 1)
        # verl fills each sequence up to a multiple of the ranks.
        share = rows.view(dist.get_world_size(group), -1, rows.shape[-1])[dist.get_rank(group)]
        self._shares.append((labels.flatten(), share.clone()))
        zeros = hidden.new_zeros(1, labels.numel(), 2, dtype=torch.float32)
        return zeros, zeros[..., 1]

    def next_hidden(self, labels: Tensor, group: Any) -> Tensor:
        """Return the states of the next micro-batch from all ranks, and forget them.

        Args:
            labels: (N,), of the policy's micro-batch.
            group: The tensor-parallel group.

        Returns:
            (N, H).

        Raises:
            TrainingError: If the policy's micro-batch is another than the reference's.
        """
        theirs, share = self._shares.popleft() if self._shares else (labels.new_empty(0), labels)
        if not torch.equal(theirs, labels):
            raise TrainingError(
                "The policy's pass has other micro-batches than the reference's before it, or has them in another"
                " order; DGPO compares the two token by token. Please report this, with the versions of verl and"
                " megatron-core."
            )
        return gather_ranks(share, group).flatten(0, 1)


@dataclass
class VocabParallelHead:
    """Answers verl's fused forward pass with the statistics of the whole vocabulary.

    Attributes:
        sequence_parallel: Whether the hidden states come from a gather that sums their gradient over the ranks.
        reference: The reference at the same micro-batches, for d and its log-probabilities.
    """

    sequence_parallel: bool
    reference: ReferenceStates | None = None

    def __call__(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float, _reduction: str, group: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the statistics as columns, (1, N, columns), in place of log-probabilities, and the entropy, (1, N).

        Log-probabilities and entropy carry gradient.
        """
        targets = labels.flatten()
        reference: dict[str, Any] = {}
        if self.reference is not None:
            ref_hidden = self.reference.next_hidden(targets, group)
            reference = {"ref_hidden": ref_hidden, "ref_weight": self.reference.weight}
        stats = lm_head_stats(
            hidden.flatten(0, 1),
            weight,
            targets,
            temperature=temperature,
            vocab_parallel=VocabParallel(group, reduce_hidden_grad=not self.sequence_parallel),
            **reference,
        )
        columns = torch.stack([values for values in stats if values is not None], dim=-1)[None]
        return columns, columns[..., 1]


class DGPOMegatronEngine(MegatronEngineWithLMHead):
    """verl's Megatron engine with a streamed head: the same passes as `HeadStatistics` gives, under the same names.

    Attributes:
        reference_engine: The engine of the frozen reference.
    """

    reference_engine: Optional["DGPOMegatronEngine"] = None

    @property
    def vocab_size(self) -> int:
        """V, which d and h run over."""
        return int(self.model_config.hf_config.vocab_size)

    def _maybe_enable_fused_kernels(self) -> None:
        """Let verl take its fused forward pass, whatever `model.use_fused_kernels` says: it is where we answer."""
        for chunk in unwrap_model(self.module):
            if not isinstance(chunk, GPTModel):
                raise TrainingError(
                    f"Megatron built a {type(chunk).__name__}; DGPO's head follows megatron-core's GPTModel alone. Use"
                    " actor_rollout_ref.actor.strategy=fsdp2 for this model."
                )
            if chunk.vocab_size != self.vocab_size:
                raise TrainingError(
                    f"Megatron pads the vocabulary of {self.vocab_size} tokens to {chunk.vocab_size}; the rows that"
                    " pad it would count as tokens in d and entropy. Choose a tensor_model_parallel_size (and"
                    " make_vocab_size_divisible_by) that divides the vocabulary."
                )
        self.engine_config.use_fused_kernels = True
        super()._maybe_enable_fused_kernels()
        if not self.engine_config.use_fused_kernels:
            raise TrainingError(
                "verl has no fused forward pass for this model, which DGPO needs (the log says why). Use"
                " actor_rollout_ref.actor.strategy=fsdp2."
            )

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool = False
    ) -> Any:
        """Run verl's schedule over the micro-batches; in a credit pass that of the reference before it."""
        reference = None
        if forward_only and carries(data, CREDIT_PASS):
            reference = self._run_reference(data)
        with answered_by(VocabParallelHead(self.tf_config.sequence_parallel, reference)):
            output = super().forward_backward_batch(data, loss_function, forward_only)
        if reference:
            raise TrainingError(f"The policy's pass left {len(reference)} micro-batches of the reference's over.")
        return output

    def _run_reference(self, data: TensorDict) -> ReferenceStates:
        """Return the reference's states of a batch; on stages of a pipeline before the last one there are none."""
        engine = self.reference_engine
        if engine is None:
            raise TrainingError("A credit pass was asked of an engine without a reference.")
        states = ReferenceStates()
        with engine.eval_mode(), answered_by(states.capture):
            MegatronEngineWithLMHead.forward_backward_batch(engine, data, None, forward_only=True)
        return states

    def forward_step(
        self,
        batch_iter: Iterator[TensorDict],
        model: Any,
        logits_processor_func: Callable[..., Any] | None,
        postprocess_micro_batch_func: Callable[..., Any],
    ) -> Any:
        """Compute one micro-batch as verl does; an update that carries `SKIP` leaves out what has no advantage.

        Every stage of a pipeline leaves out the same rows.
        """
        micro_batch = next(batch_iter).to(get_device_id())
        if logits_processor_func is None or not carries(micro_batch, SKIP):
            return super().forward_step(iter([micro_batch]), model, logits_processor_func, postprocess_micro_batch_func)
        micro_batch, loss_function = leave_out(micro_batch, logits_processor_func)
        postprocess_micro_batch_func = partial(postprocess_micro_batch_func, loss_function=loss_function)
        output, postprocess = super().forward_step(
            iter([micro_batch]), model, logits_processor_func, postprocess_micro_batch_func
        )
        return output, partial(_without_statistics, postprocess)

    def prepare_model_outputs(self, output: dict[str, Tensor], data: TensorDict) -> dict[str, Tensor]:
        """Return the statistics under verl's names, as nested tensors over whole sequences."""
        return named_statistics(output["log_probs"].values(), data)


def _without_statistics(postprocess: Callable[..., tuple[Any, ...]], output: Any) -> tuple[Any, ...]:
    """Return what verl makes of a micro-batch's output, without the rows' statistics: rows were left out.

    verl would put them into the order of all rows, and nothing reads them after an update.
    """
    *losses, reported = postprocess(output)
    reported.pop("model_output", None)
    return (*losses, reported)
