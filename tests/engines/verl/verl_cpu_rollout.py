"""A rollout for verl served by transformers on the CPU, which writes down which weights it was given."""

import hashlib
import json
import os

import ray
import torch
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput


def checksum(state: dict) -> str:
    """A digest of tensors by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def note(**facts) -> None:
    """Append a line to the notes of the run that a test reads afterwards."""
    path = os.environ.get("DGPO_TEST_NOTES")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps(facts) + "\n")


class HFServer:
    """Generates with a transformers model, one request at a time."""

    def __init__(self, path, max_tokens):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.max_tokens = max_tokens
        self.step = 0

    async def generate(self, request_id, prompt_ids, sampling_params, image_data=None, video_data=None, **kwargs):
        length = int(sampling_params.get("max_tokens") or sampling_params.get("max_new_tokens") or self.max_tokens)
        ids = torch.tensor([list(prompt_ids)])
        samples = sampling_params.get("temperature", 1.0) > 0
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=samples,
                top_k=0 if samples else None,
                temperature=sampling_params.get("temperature") or 1.0,
                pad_token_id=0,
            )
        tokens = out[0, ids.shape[1] :].tolist()
        return TokenOutput(token_ids=tokens, stop_reason="completed", extra_fields={"global_steps": self.step})

    async def load_weights(self, state, step):
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        self.step = step
        own = {name: value for name, value in self.model.state_dict().items() if name in state}
        note(what="rollout", step=step, checksum=checksum(own), missing=missing, unexpected=unexpected)

    async def wake_up(self, tags=None):
        pass

    async def sleep(self):
        pass

    async def clear_kv_cache(self):
        pass

    async def abort_all_requests(self, reject_request=False):
        pass

    async def resume_generation(self):
        pass

    async def set_global_steps(self, step):
        self.step = step


class HFReplica(RolloutReplica):
    async def launch_servers(self):
        options = {"name": f"hf_server_{self.replica_rank}", "num_cpus": 0, "max_concurrency": 64}
        server = ray.remote(HFServer).options(**options).remote(self.model_config.path, self.config.response_length)
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"hf-{self.replica_rank}"


class HFAdapter(BaseRollout):
    def __init__(self, config, model_config, device_mesh, *args, **kwargs):
        super().__init__(config, model_config, device_mesh)
        self.server = None

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, wire_format="named_tensors", global_steps=None, **kwargs):
        state = {
            name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu().float()
            for name, value in weights
        }
        rank = int(os.environ["RANK"])
        if self.server is None:
            self.server = ray.get_actor(f"hf_server_{rank}")
        note(what="actor", step=global_steps, checksum=checksum(state), rank=rank, pid=os.getpid())
        await self.server.load_weights.remote(state, global_steps)


RolloutReplicaRegistry.register("hfcpu", lambda: HFReplica)
_ROLLOUT_REGISTRY[("hfcpu", "async")] = "verl_cpu_rollout.HFAdapter"
