"""What the runs of recipes/verl should need of memory and time: arithmetic, nothing is measured.

    python benchmarks/scaling_arithmetic.py           print the tables of docs/scaling.md
    python benchmarks/scaling_arithmetic.py --write   put them into docs/scaling.md

Lengths, batch and GPU counts are read from the recipes; shapes are those of the models' published configurations; what
is assumed stands in `Assumptions` and is printed with the tables.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "verl"
DOCUMENT = ROOT / "docs" / "scaling.md"
GB = 1e9


@dataclass(frozen=True)
class Assumptions:
    """Numbers that decide the answer and that nobody has measured here: (value, what it is)."""

    gpu_memory: tuple[float, str] = (80e9, "bytes of a GPU (H100 SXM, 80 GB)")
    gpu_flops: tuple[float, str] = (989e12, "dense bf16 FLOP/s of a GPU (H100 SXM, its data sheet)")
    gpu_bandwidth: tuple[float, str] = (3.35e12, "bytes/s of its memory (data sheet)")
    host_bandwidth: tuple[float, str] = (25e9, "bytes/s between host and one GPU (half of PCIe 5.0 x16)")
    network: tuple[float, str] = (50e9, "bytes/s between nodes per GPU (400 Gbit/s each)")
    forward_mfu: tuple[float, str] = (0.40, "share of the FLOP/s reached by a forward-only pass")
    update_mfu: tuple[float, str] = (0.35, "share reached by the update, waiting of unequal ranks included")
    decode_efficiency: tuple[float, str] = (0.5, "share of the memory bandwidth reached by vLLM's decoding")
    prompt_tokens: tuple[float, str] = (200, "tokens of a mean prompt")
    sampled_groups: tuple[float, str] = (1.5, "groups sampled per group kept by dynamic sampling")
    max_num_seqs: tuple[float, str] = (256, "completions a vLLM replica works on at a time (verl's default)")
    other_seconds: tuple[float, str] = (30, "weight sync, moving states to the GPU and back, rewards, bookkeeping")
    overhead: tuple[float, str] = (4e9, "bytes of a GPU for CUDA, NCCL and the allocator's fragments")

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return value if name.startswith("_") else value[0]


A = Assumptions()


@dataclass(frozen=True)
class Shape:
    """A Qwen2 model with a head of its own.

    Attributes:
        hidden: H. layers: L. heads, kv_heads: of attention. head: size of one. mlp: I. vocab: V.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    head: int = 128
    vocab: int = 152064

    @property
    def layer_params(self) -> int:
        """Query, key and value with biases, output, three matrices of the MLP, two norms."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        biases = self.head * (self.heads + 2 * self.kv_heads)
        return attention + biases + 3 * self.hidden * self.mlp + 2 * self.hidden

    @property
    def head_params(self) -> int:
        """V x H; the embedding has as many."""
        return self.vocab * self.hidden

    @property
    def params(self) -> int:
        """N."""
        return self.layers * self.layer_params + 2 * self.head_params + self.hidden

    @property
    def kv_bytes(self) -> int:
        """Of a token in vLLM's cache, bf16."""
        return 2 * self.layers * self.kv_heads * self.head * 2

    def forward_flops(self, length: float) -> float:
        """Of a token in a sequence of this length: 2 per weight (the embedding is a look-up), and causal attention."""
        return 2 * (self.params - self.head_params) + 2 * self.layers * self.heads * self.head * length


SHAPES = {
    "32b": Shape(hidden=5120, layers=64, heads=40, kv_heads=8, mlp=27648),
    "7b": Shape(hidden=3584, layers=28, heads=28, kv_heads=4, mlp=18944),
}


@dataclass(frozen=True)
class Plan:
    """A recipe at a scale, on so many GPUs."""

    scale: str
    gpus: int
    prompts: int
    group: int
    max_prompt: int
    max_response: int
    pack: int  # tokens that a GPU holds in a forward and backward pass
    tensor_parallel: int
    gpu_memory_utilization: float

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return SHAPES[self.scale]


def read_plan(scale: str, gpus: int | None = None) -> Plan:
    """Return the plan that recipes/verl/math.yaml and its scale describe."""
    run, own = (yaml.safe_load((RECIPES / name).read_text()) for name in ("math.yaml", f"scale/{scale}.yaml"))
    rollout = run["actor_rollout_ref"]["rollout"] | own["actor_rollout_ref"]["rollout"]
    return Plan(
        scale=scale,
        gpus=gpus or own["trainer"]["nnodes"] * run["trainer"]["n_gpus_per_node"],
        prompts=run["data"]["train_batch_size"],
        group=rollout["n"],
        max_prompt=run["data"]["max_prompt_length"],
        max_response=own["data"]["max_response_length"],
        pack=own["actor_rollout_ref"]["actor"]["ppo_max_token_len_per_gpu"],
        tensor_parallel=rollout["tensor_model_parallel_size"],
        gpu_memory_utilization=rollout["gpu_memory_utilization"],
    )


def training_memory(plan: Plan) -> dict[str, float]:
    """Return bytes of one GPU at the peak of DGPO's update, by what they hold; the last ones are alternatives."""
    m, tokens = plan.shape, plan.pack
    largest = max(m.layer_params, m.head_params)
    parts = {
        "weights, gradients, Adam (16 N / GPUs)": 16 * m.params / plan.gpus,
        "checkpoints of the layers (2 L T H)": 2 * m.layers * tokens * m.hidden,
        "one layer, recomputed (2 T (10 H + 6 I))": 2 * tokens * (10 * m.hidden + 6 * m.mlp),
        "gathered: two layers, and a head with its gradient": 4 * m.layer_params + 8 * largest,
        "DGPO's head in the update: fp32 sums 4 (V + T) H, tiles": 4 * (m.vocab + tokens) * m.hidden
        + 3 * 4 * 4096 * 8192,
        "CUDA, NCCL, allocator": A.overhead,
    }
    return parts | {"sum": sum(parts.values())}


def other_memory(plan: Plan) -> dict[str, float]:
    """Return what docs/scaling.md tells beside the update's peak, in bytes (completions: a number)."""
    m, nodes = plan.shape, plan.gpus / 8
    weights = 2 * m.params / plan.tensor_parallel
    cache = plan.gpu_memory_utilization * A.gpu_memory - weights
    longest = plan.max_prompt + plan.max_response
    return {
        "verl's logits in the baselines' update (2 T V), instead of DGPO's head": 2 * plan.pack * m.vocab,
        "credit pass: copy of the reference's head, its hidden states": 2 * m.head_params + 2 * plan.pack * m.hidden,
        "vLLM: weights": weights,
        "vLLM: left for the cache": cache,
        "vLLM: completions of full length that fit (a number, per replica)": cache
        * plan.tensor_parallel
        // (m.kv_bytes * longest),
        "host, per node: policy 12 N, reference 4 N": 16 * m.params / nodes,
        "checkpoint on disk (12 N)": 12 * m.params,
    }


def megatron_memory(plan: Plan) -> dict[str, float]:
    """Return bytes of one GPU under recipes/verl/strategy/megatron.yaml, by what they hold; then the two peaks."""
    m, tokens = plan.shape, plan.pack
    engine = yaml.safe_load((RECIPES / "strategy" / "megatron.yaml").read_text())["actor_rollout_ref"]["actor"][
        "megatron"
    ]
    ranks, stages = engine["tensor_model_parallel_size"], engine["pipeline_model_parallel_size"]
    sharing = ranks * stages
    update = {
        "weights in bf16, gradients in fp32 (6 N / ranks)": 6 * m.params / sharing,
        "fp32 weights, Adam (12 N / GPUs)": 12 * m.params / plan.gpus,
        "checkpoints of the layers (2 L T H / ranks)": 2 * m.layers * tokens * m.hidden / sharing,
        "one layer, recomputed (2 T (10 H + 6 I) / ranks), its whole input and gradient (4 T H)": 2
        * tokens
        * (10 * m.hidden + 6 * m.mlp)
        / ranks
        + 4 * tokens * m.hidden,
        "DGPO's head in the update: all states and their fp32 sum 6 T H, 4 V H / ranks, tiles": 6 * tokens * m.hidden
        + 4 * m.head_params / ranks
        + 3 * 4 * 4096 * 8192,
    }
    of_rollout = {
        length: 2 * m.hidden * plan.prompts * plan.group * length * stages / plan.gpus
        for length in (A.prompt_tokens + 4000, plan.max_prompt + plan.max_response)
    }
    mean, longest = of_rollout.values()
    weights = {"credit pass: weights of policy and reference (4 N / ranks)": 4 * m.params / sharing}
    head = 2 * m.head_params / ranks + 4 * tokens * m.hidden
    credit = weights | {
        "the reference's states of a rollout, 4,000 tokens a completion (2 H tokens / GPUs)": mean,
        "the same, all completions of full length": longest,
        "copy of its rows of the head, both models' states of a pack": head,
    }
    peak = {"sum of the update, with CUDA, NCCL, allocator": sum(update.values()) + A.overhead}
    of_credit = sum(weights.values()) + longest + head + A.overhead
    return update | peak | credit | {"sum of the credit pass, full length, likewise": of_credit}


def generation_seconds(plan: Plan, length: float, completions: float) -> float:
    """Return how long vLLM decodes: full batches, then the few completions that run to the limit."""
    m, replicas = plan.shape, plan.gpus / plan.tensor_parallel
    weights = 2 * m.params / plan.tensor_parallel
    context = A.prompt_tokens + length / 2
    cache = (plan.gpu_memory_utilization * A.gpu_memory - weights) * plan.tensor_parallel
    each = completions / replicas
    batch = min(each, A.max_num_seqs, cache / (m.kv_bytes * context))
    bandwidth = A.decode_efficiency * A.gpu_bandwidth
    step = (weights + batch * context * m.kv_bytes / plan.tensor_parallel) / bandwidth
    tail = (plan.max_response - length) * weights / bandwidth
    return each * length / batch * step + tail


def step_seconds(plan: Plan, length: float) -> dict[str, float]:
    """Return the seconds of a rollout and its updates, for completions of this mean length."""
    m, completions = plan.shape, plan.prompts * plan.group
    tokens = completions * (A.prompt_tokens + length)
    forward = m.forward_flops(A.prompt_tokens + length) * tokens / (plan.gpus * A.gpu_flops)
    head = 2 * m.head_params * tokens / (plan.gpus * A.gpu_flops)
    packs = -(-tokens // (plan.gpus * plan.pack))
    parts = {
        "generation": generation_seconds(plan, length, completions * A.sampled_groups),
        "old log-probs": forward / A.forward_mfu,
        "update": 4 * forward / A.update_mfu,
        "other": A.other_seconds,
    }
    dapo = sum(parts.values())
    reference = forward / A.forward_mfu
    # FSDP2 keeps the reference in host memory and copies its shards to the GPU for each micro-batch.
    copied = packs * 4 * m.params / plan.gpus / A.host_bandwidth
    recomputed = head / A.update_mfu
    return parts | {
        "DAPO": dapo,
        "reference": reference,
        "its shards from the host, if nothing hides it": copied,
        "head tiles again in the update": recomputed,
        "DGPO": dapo + reference + copied + recomputed,
    }


def gather_seconds(plan: Plan) -> tuple[float, float]:
    """Return seconds to gather all bf16 weights once over the network, and to compute a full pack forward meanwhile."""
    m = plan.shape
    compute = plan.pack * m.forward_flops(plan.pack) / (A.forward_mfu * A.gpu_flops)
    return 2 * m.params / A.network, compute


def _markdown(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _by_plan(plans: list[Plan], columns: list[dict[str, float]]) -> str:
    heading = ["GB of one GPU, except where it says otherwise"] + [f"{plan.scale}, {plan.gpus} GPUs" for plan in plans]
    rows = []
    for name in columns[0]:
        count = "a number" in name
        rows.append([name, *(f"{column[name]:.0f}" if count else f"{column[name] / GB:.1f}" for column in columns)])
    return _markdown(heading, rows)


def tables() -> dict[str, str]:
    """Return the tables of docs/scaling.md by name."""
    plans = [read_plan("32b", gpus) for gpus in (128, 64, 32)] + [read_plan("7b")]
    times = []
    for plan in (plans[0], plans[-1]):
        lengths = [1000, 4000, 8000] if plan.scale == "32b" else [1000, 2000, 4000]
        columns = [step_seconds(plan, length) for length in lengths]
        rows = [[name, *(f"{column[name]:.0f}" for column in columns)] for name in columns[0]]
        added = [column["DGPO"] / column["DAPO"] - 1 for column in columns]
        rows.append(["DGPO over DAPO", *(f"+{share:.1%}" for share in added)])
        total = [column["DGPO"] * 320 / 3600 * plan.gpus for column in columns]
        rows.append(["320 rollouts with DGPO, GPU hours", *(f"{hours:,.0f}" for hours in total)])
        heading = [f"seconds a rollout, {plan.scale} on {plan.gpus} GPUs; mean completion"]
        times.append(_markdown(heading + [f"{length:,} tokens" for length in lengths], rows))
    gathers = []
    for plan in plans:
        gather, compute = gather_seconds(plan)
        gathers.append([f"{plan.scale}, {plan.gpus} GPUs", f"{gather:.1f}", f"{compute:.1f}"])
    assumed = [[f"`{field.name}`", f"{field.default[0]:g}", field.default[1]] for field in fields(Assumptions)]
    return {
        "assumptions": _markdown(["assumption", "value", "what it is"], assumed),
        "training": _by_plan(plans, [training_memory(plan) for plan in plans]),
        "other": _by_plan(plans, [other_memory(plan) for plan in plans]),
        "megatron": _by_plan(plans[:3], [megatron_memory(plan) for plan in plans[:3]]),
        "time": "\n\n".join(times),
        "gather": _markdown(["", "gather all weights once, s", "compute of a full pack, forward, s"], gathers),
    }


def filled_in(text: str) -> str:
    """Return the document with each table between its markers replaced."""
    for name, table in tables().items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise SystemExit(f"{DOCUMENT} has no place for the table {name!r}: {start.strip()} ... {end}")
        text = f"{before}{start}{table}\n{end}{after}"
    return text


def main() -> None:
    """Print the tables, or write them into the document."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(filled_in(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, table in tables().items():
        print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
