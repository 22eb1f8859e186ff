"""What every test shares: one thread, no hub, and shape annotations that are checked."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

sys.path.insert(0, str(Path(__file__).parent))

import hypothesis
import jaxtyping
import pytest
import torch

# Every annotated function of these rooms is checked, shapes included, in every test that reaches it.
# Triton's interpreter compiles the source of its kernels anew, which the hook has rewritten: not in its process.
if os.environ.get("TRITON_INTERPRET") != "1":
    jaxtyping.install_import_hook(["dgpo.core", "dgpo.lm_head"], "shape_checks.check")

torch.set_num_threads(1)

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("dgpo", deadline=None)
hypothesis.settings.load_profile("dgpo")


@pytest.fixture
def unchecked_shapes():
    """Switch the shape checks off: what a user without jaxtyping gets is our own error message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
