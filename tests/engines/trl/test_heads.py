"""The head hook by itself."""

import gc
import weakref

import torch
import trl.trainer.utils as trl_utils

from dgpo.engines.trl import heads


def test_a_pass_keeps_nothing_once_its_result_is_gone():
    """The copy of a sharded reference's head is freed with the step, not when Python's collector comes by."""
    hidden, weight = torch.randn(3, 4), torch.randn(7, 4)
    targets = torch.tensor([1, 0, 6])
    gc.collect()
    gc.disable()
    try:
        with heads.reference_pass(copy_head=True) as passed:
            trl_utils._ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 8)
        head = weakref.ref(passed[0].weight)
        with heads.policy_pass(passed[0]) as stats:
            trl_utils._ChunkedLogProbFunction.apply(hidden.requires_grad_(), weight, None, targets, 1.0, 8)
        graph = weakref.ref(stats[0].logps.grad_fn)
        assert head() is not None
        assert graph() is not None
        del passed, stats
        assert head() is None
        assert graph() is None
    finally:
        gc.enable()
