"""TRL's client of a vLLM server, for a CPU: weights go to the server as a file, as NCCL needs GPUs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from trl.generation.vllm_client import VLLMClient

from dgpo.errors import ConfigError, TrainingError

EXTENSION = "dgpo.engines.trl.vllm_worker.Pushes"
START = (
    "VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model MODEL --host 127.0.0.1"
    f" --logprobs-mode processed_logprobs --worker-extension-cls {EXTENSION}"
)
"""How a server is started. `vllm serve` needs a package of that name, and the one for CPUs has another."""

_NEEDED = (
    ("parallel_config", "worker_extension_cls", EXTENSION),  # without it the first weights would sample for ever
    ("model_config", "logprobs_mode", "processed_logprobs"),  # those of the distribution that was sampled from
)


class CPUClient(VLLMClient):
    """What TRL samples through where `vllm_mode` is `server` and the trainer runs on a CPU.

    Each push is a safetensors file in a folder of its own (below `TMPDIR`), which the server must be able to read and
    which is removed after the push. Several hosts need a folder that both see.

    Args:
        **options: Of TRL's client.

    Raises:
        ConfigError: If there is no server, or it was started in a way that pushed weights would not reach.
    """

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except OSError as error:  # requests' own ConnectionError
            raise ConfigError(f"{error} On a CPU: {START}") from error

    def init_communicator(self, device: Any = 0) -> None:
        """Check that the server can be pushed to; nothing needs to be set up.

        Args:
            device: Unused.

        Raises:
            ConfigError: If it cannot.
        """
        response = self.session.get(f"{self.base_url}/server_info", params={"config_format": "json"})
        if response.status_code != 200:
            reason = f"answers {response.status_code} to /server_info; VLLM_SERVER_DEV_MODE=1 opens it"
            raise ConfigError(f"The vLLM server at {self.base_url} {reason}. On a CPU: {START}")
        config = response.json()["vllm_config"]
        for part, name, needed in _NEEDED:
            if config[part][name] != needed:
                raise ConfigError(
                    f"The vLLM server at {self.base_url} runs with {name}={config[part][name]!r}, and DGPO needs"
                    f" {needed!r} on a CPU. Start it with: {START}"
                )

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, Tensor]]
    ) -> None:
        """Push weights to the server.

        Args:
            metadata: Unused: the file names its tensors.
            named_params: Names and tensors of the model, on any device. They may change as soon as the next one is
                asked for.

        Raises:
            TrainingError: If the server is gone, or did not take the weights.
        """
        weights = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in named_params}
        with tempfile.TemporaryDirectory(prefix="dgpo-push-") as folder:
            path = Path(folder) / "model.safetensors"
            save_file(weights, path)
            call = {"method": "load_pushed_weights", "args": [str(path)]}
            answers = self._post(f"{self.base_url}/collective_rpc", json=call)["results"]
        for reason in filter(None, answers):
            raise TrainingError(
                f"The vLLM server at {self.base_url} could not load the weights of this update: {reason}. It must serve"
                " the model that is trained, and be able to read what the trainer writes below TMPDIR."
            )

    def _post(self, url: str, **options: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = super()._post(url, **options)
        except Exception as error:  # requests' own, or TRL's for an answer that is not 200
            raise TrainingError(
                f"The vLLM server at {self.base_url} failed: {error}. Its own output says why; start it again, and"
                " resume from the last checkpoint."
            ) from error
        return answer
