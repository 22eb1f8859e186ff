"""Peak memory of verl's forward-only passes: DGPO's credit pass against verl's own passes of policy and reference.

    .venv-verl/bin/python benchmarks/verl_forward.py [--output FILE]

One gloo rank, FSDP2, fp32, one packed micro-batch. verl's own path is what a GRPO run with a KL term makes: a pass of
the policy with entropy, then one of the reference. DGPO's is one credit pass, which gives the same and the distances.
Peaks are of resident memory above that before the pass (VmHWM, reset before it); each contender has its own process.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "engines" / "verl"
sys.path.insert(0, str(TESTS))

SIZES = [(tokens, vocab) for vocab in (32768, 131072) for tokens in (512, 1024, 2048)]
PROMPT = 16


def make_model(folder, vocab):
    """A Qwen2 with one layer and a head of its own; small, so that the head is what is measured."""
    import torch
    from support import make_model as make_tiny
    from transformers import AutoConfig, Qwen2ForCausalLM

    path = make_tiny(Path(folder))
    config = AutoConfig.from_pretrained(path)
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = vocab, 1, 4096
    config.layer_types = ["full_attention"]
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def status(key):
    """A line of /proc/self/status, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def make_batch(tokens, vocab):
    import torch
    from tensordict import TensorDict

    ids = torch.randint(4, vocab - 1, (tokens,), generator=torch.Generator().manual_seed(0))
    jagged = lambda row: torch.nested.as_nested_tensor([row], layout=torch.jagged)  # noqa: E731
    mask = torch.ones(tokens - PROMPT, dtype=torch.int64)
    rows = {"prompts": ids[:PROMPT], "responses": ids[PROMPT:], "input_ids": ids, "position_ids": torch.arange(tokens)}
    rows |= {"response_mask": mask, "loss_mask": mask}
    return TensorDict({name: jagged(row) for name, row in rows.items()}, batch_size=1)


def measure(contender, vocab):
    """Print the peaks of all token counts as JSON; one process."""
    variables = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "RAY_LOCAL_WORLD_SIZE": 1}
    # verl's worker reads these two; no store is opened there.
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in variables.items()})
    import torch.distributed as dist
    from support import compose_config, data_overrides

    import verl  # noqa: F401  isort: skip
    from omegaconf import OmegaConf, open_dict
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from dgpo.engines.verl.config import prepare_config
    from dgpo.engines.verl.engine import CREDIT_PASS
    from dgpo.engines.verl.worker import DGPOWorker

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{folder}/store")
        sizes = [f"actor_rollout_ref.rollout.{key}=1" for key in ("log_prob_micro_batch_size_per_gpu",)]
        config = compose_config(*data_overrides(make_model(folder, vocab)), *sizes)
        OmegaConf.resolve(config)
        prepare_config(config)
        part = config.actor_rollout_ref
        with open_dict(config):
            part.actor.optim.total_training_steps = 10
            part.ref.log_prob_micro_batch_size_per_gpu = 1
            if contender == "verl":
                part.actor.use_kl_loss = part.pop("dgpo_kl_loss")
        worker = (DGPOWorker if contender == "dgpo" else ActorRolloutRefWorker)(config=part, role="actor_rollout_ref")
        worker.init_model()

        def run(tokens):
            options = {"compute_loss": False, "temperature": 1.0}
            batch = make_batch(tokens, vocab)
            if contender == "dgpo":
                tu.assign_non_tensor(batch, calculate_entropy=True, **{CREDIT_PASS: True}, **options)
                return worker.compute_log_prob(batch)
            tu.assign_non_tensor(batch, calculate_entropy=True, **options)
            policy = worker.compute_log_prob(batch)
            batch = make_batch(tokens, vocab)
            tu.assign_non_tensor(batch, calculate_entropy=False, **options)
            return policy, worker.compute_ref_log_prob(batch)

        run(64)  # what is allocated once
        peaks = {}
        for tokens in sorted({tokens for tokens, size in SIZES if size == vocab}):
            before = status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            run(tokens)
            peaks[tokens] = round(status("VmHWM") - before, 1)
        dist.destroy_process_group()
    print(json.dumps(peaks))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("CONTENDER", "VOCAB"))
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]))
        return
    from importlib.metadata import version

    from support import environment

    rows = []
    for vocab in sorted({vocab for _, vocab in SIZES}):
        peaks = {}
        for contender in ("verl", "dgpo"):
            command = [sys.executable, __file__, "--measure", contender, str(vocab)]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-4000:])
            peaks[contender] = json.loads(done.stdout.splitlines()[-1])
        for tokens in peaks["verl"]:
            logits = int(tokens) * vocab * 4 / 2**20
            row = {"tokens": int(tokens), "vocab": vocab, "logits_mib": logits}
            rows.append(row | {f"{name}_peak_mib": peak[tokens] for name, peak in peaks.items()})
            print(rows[-1], flush=True)
    result = {
        "command": "python benchmarks/verl_forward.py",
        "date": str(date.today()),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("torch", "verl", "transformers", "dgpo")},
        "what": "peak resident MiB above that before the pass; one rank, FSDP2, fp32, hidden size 64",
        "rows": rows,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
