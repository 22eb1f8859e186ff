"""What a vLLM server on a CPU loads for `DGPOTrainer`: `--worker-extension-cls dgpo.engines.trl.vllm_worker.Pushes`.

vLLM imports this module in its workers alone, and before they load the model: so does it take effect in a server that
was asked for it, and nowhere else.
"""

import sys
from typing import Any

from dgpo.engines.trl.vllm_cpu import keep_weights_plain

if "vllm" in sys.modules:  # not where documentation or tests import every module
    keep_weights_plain()


class Pushes:
    """Methods that vLLM adds to its workers; `CPUClient` calls them through the server."""

    get_model: Any  # of the worker

    def load_pushed_weights(self, path: str) -> str | None:
        """Write the weights of a file into the model, each worker its own part.

        Args:
            path: A safetensors file with the names of a checkpoint, on a disk of the server's.

        Returns:
            Why that could not be done; None where it was.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                self.get_model().load_weights((name, file.get_tensor(name)) for name in names)
        except Exception as error:  # of any kind: it has to reach the trainer, and the server to live on
            return f"{type(error).__name__}: {error}"
        return None
