"""vLLM on a CPU, in an environment of its own: `make test-vllm`. Elsewhere these tests are not collected.

The folder is not called vllm: what looks for that package would find it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
}
collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "engines" / "trl")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """A tiny Llama whose heads are as wide as vLLM's attention on a CPU asks for."""
    from support import make_checkpoint

    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    return make_checkpoint(tmp_path_factory.mktemp("tiny-llama"), **shape)
