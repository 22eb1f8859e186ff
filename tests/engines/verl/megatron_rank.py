"""One of two ranks of a worker with verl's Megatron engine, without Ray, against a dense transformers model in float64.

    python megatron_rank.py MODEL CASES_AS_JSON FOLDER

Prints a JSON object with the figures of each case. On stages of a pipeline before the last there are no statistics.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(1, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

import verl  # noqa: F401  isort: skip
import megatron_cpu
from batches import jagged, rows_of_batch, tensors_of_rows
from megatron.core import parallel_state as mpu
from omegaconf import OmegaConf, open_dict
from safetensors.torch import load_file
from support import VOCAB, compose_config, data_overrides, make_variant
from tensordict import TensorDict
from transformers import AutoConfig, Qwen2ForCausalLM
from verl.models.mcore import model_forward_fused as fused
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from dgpo.core import assign_credit
from dgpo.engines.verl import megatron
from dgpo.engines.verl.config import prepare_config, read_settings
from dgpo.engines.verl.credit import REFERENCE_FIELDS, token_stats
from dgpo.engines.verl.engine import CREDIT_PASS
from dgpo.engines.verl.live import SKIP
from dgpo.engines.verl.worker import DGPOWorker
from process_groups import wait_for_all_ranks

LEARNING_RATE = 0.5
PART = "actor_rollout_ref"
SGD = (
    *(f"{PART}.actor.optim.optimizer=sgd", f"{PART}.actor.optim.lr={LEARNING_RATE}"),
    *(f"{PART}.actor.optim.weight_decay=0", f"{PART}.actor.optim.clip_grad=0"),
    *(f"{PART}.actor.megatron.vanilla_mbridge=True", f"{PART}.actor.megatron.use_distributed_optimizer=False"),
    *(f"{PART}.actor.ppo_micro_batch_size_per_gpu=2", f"{PART}.rollout.log_prob_micro_batch_size_per_gpu=2"),
)
DEAD = (0, 1, 2, 5)  # rows without advantage: all of the first micro-batch, one of each of the next
COLUMNS = ("log_probs", "entropy", "hellinger_sq", "ref_log_probs")


def build(case, model):
    overrides = [f"++{PART}.actor.megatron.{override}" for override in case["megatron"]]
    config = compose_config(
        *(*data_overrides(sys.argv[1]), f"{PART}.model.path={model}", *SGD, *overrides, *case.get("overrides", ())),
        engine="megatron",
    )
    OmegaConf.resolve(config)
    prepare_config(config)
    with open_dict(config):
        config.actor_rollout_ref.actor.optim.total_training_steps = 10
    worker = DGPOWorker(config=config.actor_rollout_ref, role="actor_rollout_ref")
    worker.init_model()
    return worker, read_settings(config)


def moved(state):
    """A policy at some distance from its reference."""
    generator = torch.Generator().manual_seed(7)
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def dense(states, hf_config, batch, temperature):
    """Statistics of every position of every row but its last, from logits in float64, and the policy's parameters."""
    models = []
    for state in states:
        model = Qwen2ForCausalLM._from_config(hf_config, attn_implementation="sdpa", dtype=torch.float64)
        model.load_state_dict(state, strict=not hf_config.tie_word_embeddings)
        models.append(model)
    columns = {name: [] for name in COLUMNS}
    for ids in batch["input_ids"].unbind():
        p, q = ((model(ids[None]).logits[0, :-1] / temperature).log_softmax(-1) for model in models)
        q, following = q.detach(), ids[1:, None]
        columns["log_probs"].append(p.gather(-1, following)[:, 0])
        columns["ref_log_probs"].append(q.gather(-1, following)[:, 0])
        columns["entropy"].append(-(p.exp() * p).sum(-1))
        columns["hellinger_sq"].append(1 - ((p + q) / 2).exp().sum(-1))
    return columns, dict(models[0].named_parameters())


def whole(rows):
    """Rows with a value for their last position too, which predicts nothing."""
    return jagged(torch.nn.functional.pad(row, (0, 1)) for row in rows)


def credit_of(columns, rows, advantages, settings):
    """Token advantages of each row, from statistics over whole sequences."""
    mask = tensors_of_rows(rows)["response_mask"]
    data = {name: columns[name].float() for name in REFERENCE_FIELDS}
    data |= {"response_mask": mask, "advantages": jagged(advantages), "rm_scores": jagged(advantages)}
    data["old_log_probs"] = response_from_nested(columns["log_probs"].float(), mask)
    data["entropy"] = response_from_nested(columns["entropy"].float(), mask)
    stats = token_stats(data, [f"prompt{row}_0_0" for row in range(len(rows))], vocab_size=VOCAB)
    return assign_credit(stats, settings.rule).token_advantages


def score(worker, batch, temperature):
    tu.assign_non_tensor(batch, calculate_entropy=True, compute_loss=False, temperature=temperature)
    tu.assign_non_tensor(batch, **{CREDIT_PASS: True})
    return worker.compute_log_prob(batch)


@contextmanager
def counted_tokens():
    """Counts the tokens of each call of the policy's head."""
    sizes, call = [], megatron.VocabParallelHead.__call__
    counting = lambda head, hidden, *others: sizes.append(len(hidden)) or call(head, hidden, *others)  # noqa: E731
    megatron.VocabParallelHead.__call__ = counting
    yield sizes
    megatron.VocabParallelHead.__call__ = call


def own_part(rows):
    """The rows of this rank's replica of the model, of a list over all rows."""
    rank, replicas = mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()
    return rows[rank * len(rows) // replicas : (rank + 1) * len(rows) // replicas]


def batch_of(rows):
    return TensorDict(tensors_of_rows(rows), batch_size=len(rows))


def error_of_hook(hf_config):
    """The largest error of statistics and gradients where megatron-core itself calls verl, as it does from 0.18 on."""
    rank, ranks = mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    generator = torch.Generator().manual_seed(3)
    tokens, size = 12, hf_config.hidden_size
    head, ref_head = (torch.randn(VOCAB, size, generator=generator) / size**0.5 for _ in range(2))
    hidden, ref_hidden = (torch.randn(tokens, 1, size, generator=generator) for _ in range(2))
    labels = torch.randint(0, VOCAB, (1, tokens), generator=generator)
    upstream = torch.randn(2, tokens, generator=generator)
    config = SimpleNamespace(sequence_parallel=True, config_logger_dir="")
    arguments = {"labels": labels, "context": fused.FusedOutputProcessorContext(temperature=0.7), "config": config}

    def call(states, weight):
        layer = SimpleNamespace(weight=weight)
        return fused.fused_output_processor(hidden_states=states, output_layer=layer, output_weight=None, **arguments)

    reference = megatron.ReferenceStates()
    with megatron.answered_by(reference.capture):
        call(ref_hidden.chunk(ranks)[rank], ref_head.chunk(ranks)[rank])
    part, weight = (x.chunk(ranks)[rank].clone().requires_grad_() for x in (hidden, head))
    with megatron.answered_by(megatron.VocabParallelHead(sequence_parallel=True, reference=reference)):
        out = call(part, weight)
    ours = out.log_probs[0].unbind(-1)
    grads = torch.autograd.grad((torch.stack(ours[:2]) * upstream).sum(), (part, weight))

    whole_hidden, whole_head = (x.double().requires_grad_() for x in (hidden[:, 0], head))
    p = (whole_hidden @ whole_head.T / 0.7).log_softmax(-1)
    q = (ref_hidden[:, 0].double() @ ref_head.double().T / 0.7).log_softmax(-1)
    picked, entropy = (x.gather(1, labels.T)[:, 0] for x in (p, q)), -(p.exp() * p).sum(-1)
    logps, ref_logps = picked
    truth = (logps, entropy, 1 - ((p + q) / 2).exp().sum(-1), ref_logps)
    whole_grads = torch.autograd.grad((torch.stack(truth[:2]) * upstream).sum(), (whole_hidden, whole_head))
    expected = (whole_grads[0][:, None].chunk(ranks)[rank], whole_grads[1].chunk(ranks)[rank])
    return max((x - y).abs().max().item() for x, y in zip((*ours, *grads), (*truth, *expected), strict=True))


def run_case(name, case, model, folder):
    if "model" in case:
        model = make_variant(model, folder / f"{name}-{os.environ['RANK']}", **case["model"])
    worker, settings = build(case, model)
    hf_config, temperature = AutoConfig.from_pretrained(model), case.get("temperature", 1.0)
    reference = load_file(f"{model}/model.safetensors")
    policy = moved(reference)
    rows = rows_of_batch(seed=1, dead=DEAD if case.get("skips") else ())
    advantages = [row_score * mask.float() for _, _, mask, row_score in rows]
    figures = {"hook": error_of_hook(hf_config)} if case.get("hook") else {}
    out = score(worker, batch_of(own_part(rows)), temperature)
    if out is not None:
        figures["d_at_start"] = out["hellinger_sq"].values().abs().max().item()
    megatron_cpu.load(worker.actor.engine.module, policy, hf_config)

    truth, parameters = dense((policy, reference), hf_config, batch_of(rows), temperature)
    columns = {column: whole(values).detach() for column, values in truth.items()}
    credit = credit_of(columns, rows, advantages, settings)
    out = score(worker, batch_of(own_part(rows)), temperature)
    if out is not None:
        for column, values in truth.items():
            ours = torch.cat([row[:-1] for row in out[column].unbind()])
            figures[column] = (ours - torch.cat(own_part(values))).abs().max().item()
        figures["d_mean"] = torch.cat(truth["hellinger_sq"]).mean().item()
        ours = credit_of(out, own_part(rows), own_part(advantages), settings)
        expected = own_part(credit)
        figures["credit"] = max((x - y[: len(x)]).abs().max().item() for x, y in zip(ours, expected, strict=True))
        figures["credit_range"] = (expected.max() - expected.min()).item()

    oracle = batch_of(rows)
    oracle["old_log_probs"] = response_from_nested(columns["log_probs"].float(), oracle["response_mask"]) - 0.01
    oracle["advantages"] = jagged(row[: len(a)] for row, a in zip(credit, advantages, strict=True))
    batch = batch_of(own_part(rows))
    for field in ("old_log_probs", "advantages"):
        batch[field] = jagged(own_part(oracle[field].unbind()))
    with_entropy = worker.config.actor.entropy_coeff != 0
    for data in (batch, oracle):
        tu.assign_non_tensor(data, calculate_entropy=with_entropy, global_batch_size=len(rows), temperature=temperature)
    tu.assign_non_tensor(batch, mini_batch_size=len(rows), epochs=1, seed=1, dataloader_kwargs={"shuffle": False})
    tu.assign_non_tensor(batch, **{SKIP: bool(case.get("skips"))})
    with counted_tokens() as sizes:
        trained = worker.update_actor(batch)
    figures["tokens"] = sum(sizes)

    tu.assign_non_tensor(oracle, dp_size=1, batch_num_tokens=int(oracle["loss_mask"].values().sum()))
    statistics = {name: whole(truth[name]) for name in ("log_probs", "entropy")}
    loss, _ = worker.actor.loss_fn(model_output=statistics, data=oracle, dp_group=None)
    grads = torch.autograd.grad(loss, list(parameters.values()))
    updated = {
        name: parameter.detach() - LEARNING_RATE * grad
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True)
    }
    if trained is not None:
        figures["loss"] = abs(tu.get(trained, "metrics")["loss"][0] - loss.item())
    errors, moves = [], []
    for name, parameter in megatron_cpu.parameters(worker.actor.engine.module):
        expected = megatron_cpu.shard(name, updated, hf_config)
        errors.append((parameter.detach() - expected).abs().max().item())
        moves.append((expected - megatron_cpu.shard(name, policy, hf_config)).abs().max().item())
    figures |= {"parameters": max(errors), "smallest_move": min(moves), "number": len(errors)}
    megatron_cpu.end()
    return figures


def main():
    model, cases, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method="env://")
    megatron_cpu.install()
    figures = {name: run_case(name, case, model, folder) for name, case in cases.items()}
    print(json.dumps(figures), flush=True)
    wait_for_all_ranks(dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size())
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
