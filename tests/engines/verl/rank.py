"""One rank of a worker without Ray: each case builds models, scores a batch, compares it with dense float64, trains.

    python rank.py MODEL CASES_AS_JSON FOLDER

Prints a JSON object with the figures of each case; parameters after training go to FOLDER.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

import verl  # noqa: F401  isort: skip
from batches import PROMPTS, jagged, rows_of_batch, tensors_of_rows
from head_calls import HeadCalls, TokensScored
from omegaconf import OmegaConf, open_dict
from support import VOCAB, compose_config, data_overrides, make_variant
from tensordict import TensorDict
from transformers import AutoModelForCausalLM
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import response_from_nested

from dgpo.core import HINDSIGHT_STATS, assign_credit
from dgpo.engines.verl.config import prepare_config, read_settings
from dgpo.engines.verl.credit import REFERENCE_FIELDS, token_stats
from dgpo.engines.verl.engine import CREDIT_PASS
from dgpo.engines.verl.hindsight import COMPARED_IDS, HINT_FIELDS, HINT_PASS, HINTED_IDS
from dgpo.engines.verl.live import SKIP
from dgpo.engines.verl.worker import DGPOWorker
from largest_storage import Largest
from process_groups import wait_for_all_ranks

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
# Rows without advantage, step by step: some in each micro-batch, all of one rank of two, all.
DEAD = ((0, 3, 6), (0, 1, 2, 3), tuple(range(8)), (1, 2, 5, 7))


def make_batch(seed, dead=()):
    """The rows of this rank; all ranks together have the same rows, however many they are."""
    rows = rows_of_batch(seed, dead)
    rows = rows[RANK * len(rows) // WORLD : (RANK + 1) * len(rows) // WORLD]
    batch = TensorDict(tensors_of_rows(rows), batch_size=len(rows))
    advantages = [score * mask.float() for _, _, mask, score in rows]
    return batch, advantages


def build(case, model):
    torch.manual_seed(0)  # a new adapter is random
    overrides = [*case.get("overrides", ()), f"actor_rollout_ref.model.path={model}"]
    if case.get("dgpo", True):
        rule = "{rule: even}" if case.get("rule") == "even" else f"{{tau: {case.get('tau', 0.5)}}}"
        overrides.append(f"+algorithm.dgpo={rule}")
    config = compose_config(*data_overrides(sys.argv[1]), *overrides)
    OmegaConf.resolve(config)
    prepare_config(config)
    part = config.actor_rollout_ref
    with open_dict(config):
        part.actor.optim.total_training_steps = 10
        if not case.get("dgpo", True):
            part.actor.use_kl_loss = part.pop("dgpo_kl_loss")
    is_lora = part.model.lora_rank > 0
    cls = DGPOWorker if case.get("dgpo", True) else ActorRolloutRefWorker
    has_reference = not case.get("dgpo", True) or part.actor.use_kl_loss  # as verl's trainer decides it
    worker = cls(config=part, role="actor_rollout_ref" if has_reference and not is_lora else "actor_rollout")
    worker.init_model()
    return worker, config


def perturb(worker, is_lora, scale):
    """Move the policy away from its reference, by the same on every rank."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(worker.actor.engine.module.named_parameters()):
            if is_lora and "lora_" not in name:
                continue
            generator = torch.Generator().manual_seed(index)
            noise = scale * torch.randn(parameter.shape, generator=generator)
            if hasattr(parameter, "to_local"):
                from torch.distributed.tensor import distribute_tensor

                noise = distribute_tensor(noise, parameter.device_mesh, parameter.placements)
            parameter.add_(noise.to(parameter.dtype))


def full_parameters(worker):
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in worker.actor.engine.module.state_dict().items()
    }


def dense(worker, model, batch, temperature, is_lora):
    """Statistics of every position from logits in float64."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="sdpa").eval()
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="sdpa").eval()
    parameters = full_parameters(worker)
    if is_lora:
        from verl.utils.fsdp_utils import normalize_peft_param_name  # noqa: F401

        scaling = worker.config.model.lora_alpha / worker.config.model.lora_rank
        merged = {}
        for name, value in parameters.items():
            name = name.removeprefix("base_model.model.")
            if name.endswith("base_layer.weight"):
                stem = "base_model.model." + name.removesuffix("base_layer.weight")
                low, high = (parameters[f"{stem}lora_{side}.default.weight"].double() for side in "AB")
                merged[name.replace("base_layer.", "")] = value.double() + scaling * high @ low
            elif "lora_" not in name:
                merged[name.replace("base_layer.", "")] = value.double()
        parameters = merged
    missing = policy.load_state_dict(parameters, strict=True)
    assert not missing.missing_keys
    columns = {name: [] for name in ("log_probs", "entropy", "hellinger_sq", "ref_log_probs")}
    with torch.no_grad():
        for ids in batch["input_ids"].unbind():
            p, q = ((m(ids[None]).logits[0] / temperature).log_softmax(-1) for m in (policy, reference))
            following = ids.roll(-1)[:, None]
            columns["log_probs"].append(p.gather(-1, following)[:, 0])
            columns["ref_log_probs"].append(q.gather(-1, following)[:, 0])
            columns["entropy"].append(-(p.exp() * p).sum(-1))
            columns["hellinger_sq"].append(1 - ((p + q) / 2).exp().sum(-1))
    # the last position of a sequence predicts nothing: its target is whatever follows in the batch
    return {name: torch.cat([x[:-1] for x in rows]) for name, rows in columns.items()}


def without_last(nested):
    return torch.cat([row[:-1] for row in nested.unbind()]).double()


def score(worker, batch, temperature, *, credit=True):
    options = {"calculate_entropy": True, "compute_loss": False, "temperature": temperature}
    tu.assign_non_tensor(batch, **options, **({CREDIT_PASS: True} if credit else {}))
    return worker.compute_log_prob(batch)


def hindsight_errors(worker, model, temperature):
    """A hint pass against the reference in float64; hints of several lengths, and a row without one."""
    batch, _ = make_batch(seed=1)
    rows = list(zip(batch["input_ids"].unbind(), batch["responses"].unbind(), strict=True))
    told = [torch.cat([torch.arange(5, 5 + row % 4), ids]) for row, (ids, _) in enumerate(rows)]
    # Half of the rows are compared with another hint in place of none.
    compared = [torch.cat([torch.arange(9, 9 + row % 2 * 3), ids]) for row, (ids, _) in enumerate(rows)]
    batch[HINTED_IDS], batch[COMPARED_IDS] = jagged(told), jagged(compared)
    batch = batch.select(*HINT_FIELDS)  # what the trainer sends
    tu.assign_non_tensor(batch, compute_loss=False, temperature=temperature, **{HINT_PASS: True})
    out = worker.compute_log_prob(batch)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="sdpa").eval()
    errors, largest = dict.fromkeys(HINDSIGHT_STATS, 0.0), 0.0
    for row, (_, response) in enumerate(rows):
        with torch.no_grad():
            p, q = (
                (reference(x[None]).logits[0, -len(response) - 1 : -1] / temperature).log_softmax(-1)
                for x in (told[row], compared[row])
            )
        log_ratio = (p - q).gather(-1, response[:, None])[:, 0]
        expected = (1 - ((p + q) / 2).exp().sum(-1), log_ratio)
        for name, values in zip(HINDSIGHT_STATS, expected, strict=True):
            errors[name] = max(errors[name], (out[name].unbind()[row].double() - values).abs().max().item())
        largest = max(largest, expected[0].max().item())
    return errors | {"largest": largest}


def train(worker, steps, temperature, settings, *, losses=("vanilla",), dead=(), skips=False, epochs=1):
    """As the trainer does it, step by step: score, redistribute, update. Without settings: verl's own GRPO."""
    needs_reference = settings is not None and settings.rule.traits.needs_reference
    for step in range(steps):
        torch.manual_seed(step)  # one of the losses chooses tokens at random
        policy_loss = worker.actor.loss_fn.keywords["config"].policy_loss  # verl's dataclasses are frozen
        object.__setattr__(policy_loss, "loss_mode", losses[step % len(losses)])
        batch, advantages = make_batch(seed=100 + step, dead=dead[step % len(dead)] if dead else ())
        out = score(worker, batch, temperature, credit=needs_reference)
        batch, _ = make_batch(seed=100 + step)
        mask = batch["response_mask"]
        batch["old_log_probs"] = response_from_nested(out["log_probs"], mask)
        batch["advantages"] = jagged(advantages)
        if settings is not None:
            data = {name: batch[name] for name in ("response_mask", "advantages", "old_log_probs")}
            data |= {"rm_scores": batch["advantages"], "entropy": response_from_nested(out["entropy"], mask)}
            data |= {name: out[name] for name in REFERENCE_FIELDS if needs_reference}
            stats = token_stats(data, [f"prompt{row}_0_0" for row in range(len(batch))], vocab_size=VOCAB)
            credit = assign_credit(stats, settings.rule)
            token_advantages = zip(credit.token_advantages, advantages, strict=True)
            batch["advantages"] = jagged(row[: len(a)] for row, a in token_advantages)
        tu.assign_non_tensor(
            batch,
            calculate_entropy=worker.config.actor.entropy_coeff != 0,
            global_batch_size=len(PROMPTS),
            mini_batch_size=len(PROMPTS),
            epochs=epochs,
            seed=1,
            dataloader_kwargs={"shuffle": False},
            temperature=temperature,
            **{SKIP: skips},
        )
        worker.update_actor(batch)


def largest_storages(worker, temperature, settings):
    """The largest storage of scoring a batch, and of a step that scores and updates; the logits of a micro-batch."""
    batch, _ = make_batch(seed=1)
    rows, size = [len(row) for row in batch["input_ids"].unbind()], worker.config.actor.ppo_micro_batch_size_per_gpu
    tokens = max(sum(rows[start : start + size]) for start in range(0, len(rows), size))
    with Largest() as scoring:
        score(worker, batch, temperature, credit=settings is not None)
    with Largest() as step:
        train(worker, 1, temperature, settings)
    config = worker.actor.engine.module.config
    sizes = {"logits": tokens * config.vocab_size, "head": config.vocab_size * config.hidden_size}
    return {"scoring": scoring.numel, "step": step.numel, **sizes}


def run_case(name, case, model, folder):
    if "model" in case:
        model = make_variant(model, folder / f"{name}-model", **case["model"])
    worker, config = build(case, model)
    temperature = case.get("temperature", 1.0)
    is_lora = config.actor_rollout_ref.model.lora_rank > 0
    settings = read_settings(config) if case.get("dgpo", True) else None
    figures = {"has_reference": worker.ref is not None}
    if settings is not None and case.get("score", True):
        batch, _ = make_batch(seed=1)
        figures["d_at_start"] = score(worker, batch, temperature)["hellinger_sq"].values().abs().max().item()
        perturb(worker, is_lora, case.get("noise", 0.05))
        batch, _ = make_batch(seed=1)
        with HeadCalls() as calls:
            out = score(worker, batch, temperature)
        figures |= {"copies": calls.copies, "bypassed": calls.bypassed}
        truth = dense(worker, model, make_batch(seed=1)[0], temperature, is_lora)
        for column, expected in truth.items():
            figures[column] = (without_last(out[column]) - expected).abs().max().item()
        figures["hindsight"] = hindsight_errors(worker, model, temperature)
        figures["d_range"] = [truth["hellinger_sq"].min().item(), truth["hellinger_sq"].max().item()]
        torch.save(
            {column: [row[:-1] for row in out[column].unbind()] for column in truth}, folder / f"{name}-scores.pt"
        )
    if case.get("storages"):
        figures |= largest_storages(worker, temperature, settings)
    if case.get("steps"):
        options = {name: case[name] for name in ("losses", "skips", "epochs") if name in case}
        with TokensScored() as tokens:
            train(worker, case["steps"], temperature, settings, dead=DEAD if "skips" in case else (), **options)
        figures["tokens"] = tokens.count
        parameters = full_parameters(worker)
        if RANK == 0:
            torch.save(parameters, folder / f"{name}-parameters.pt")
    return figures


def main():
    model, cases, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", rank=RANK, world_size=WORLD, init_method="env://")
    folder = folder / f"rank{RANK}-of-{WORLD}"
    folder.mkdir(parents=True, exist_ok=True)
    # verl's own come first: afterwards DGPO's engine is registered in this process.
    ordered = sorted(cases.items(), key=lambda item: item[1].get("dgpo", True))
    figures = {name: run_case(name, case, model, folder) for name, case in ordered}
    print(json.dumps(figures), flush=True)
    wait_for_all_ranks(dist.distributed_c10d._get_default_store(), RANK, WORLD)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
