"""What a configuration asks of verl that DGPO accepts and that has never been run with it.

`docs/verl.md` has the whole table; what is refused is in `checks.py`.
"""

from typing import Any

from dgpo.engines.verl.checks import MEGATRON, sequence_parallel_size
from dgpo.engines.verl.config import given

RUN_LOSSES = ("vanilla", "gpg", "cispo", "sapo", "clip_cov", "kl_cov")
RUN_TRACKERS = ("console", "file")
RUN_ROLLOUT = "hfcpu"
"""The rollout of the tests."""

RUN_STRATEGY = "fsdp2"
BEYOND_GLOO = "with NCCL, Megatron-Bridge and Transformer Engine (run: megatron-core 0.16.1 on gloo)"


def untested_options(config: Any) -> list[str]:
    """Return the options of a configuration that nothing of this project has run, and what is known to be uncertain.

    Args:
        config: verl's whole configuration, as Hydra composes it.

    Returns:
        Keys with their values, the important ones first; empty where all has been run.
    """
    part, algorithm, trainer = config["actor_rollout_ref"], config["algorithm"], config["trainer"]
    actor, rollout, model = part["actor"], part["rollout"], part["model"]
    correction = algorithm.get("rollout_correction") or {}
    loss_mode = (actor.get("policy_loss") or {}).get("loss_mode", "vanilla")
    trackers = [trainer["logger"]] if isinstance(trainer["logger"], str) else list(trainer["logger"] or ())
    is_megatron = actor["strategy"] == MEGATRON
    engine = actor.get("megatron" if is_megatron else "fsdp_config") or {}
    top_p, top_k = rollout.get("top_p", 1.0), rollout.get("top_k", -1)
    corrections = [f"{name}={correction[name]}" for name in ("rollout_is", "rollout_rs") if correction.get(name)]
    return given(
        {
            f"trainer.device={trainer['device']}": trainer["device"] != "cpu",
            f"rollout.name={rollout['name']}": rollout["name"] != RUN_ROLLOUT,
            f"actor.strategy={actor['strategy']}": actor["strategy"] not in (RUN_STRATEGY, MEGATRON),
            f"actor.strategy={MEGATRON} {BEYOND_GLOO}": is_megatron,
            f"actor.megatron.dtype={engine.get('dtype')}": is_megatron,
            "actor.megatron.use_distributed_optimizer": is_megatron and engine.get("use_distributed_optimizer"),
            "actor.optim.clip_grad (Megatron's)": is_megatron and actor["optim"]["clip_grad"] > 0,
            **{
                f"actor.megatron.{name}={engine.get(name)}": is_megatron and (engine.get(name) or 1) > 1
                for name in ("expert_model_parallel_size", "expert_tensor_parallel_size")
            },
            "actor.megatron.qat": is_megatron and (engine.get("qat") or {}).get("enable"),
            f"actor.fsdp_config.model_dtype={engine.get('model_dtype')}": engine.get("model_dtype") == "bf16",
            "parameters or optimizer offloaded": engine.get("param_offload") or engine.get("optimizer_offload"),
            f"ulysses_sequence_parallel_size={sequence_parallel_size(actor)}": sequence_parallel_size(actor) > 1,
            f"algorithm.adv_estimator={algorithm['adv_estimator']}": algorithm["adv_estimator"] != "grpo",
            f"actor.policy_loss.loss_mode={loss_mode}": loss_mode not in RUN_LOSSES,
            "rollout.multi_turn": (rollout.get("multi_turn") or {}).get("enable"),
            f"algorithm.rollout_correction ({', '.join(corrections)})": corrections,
            f"rollout.top_p={top_p} (the statistics are those of the whole vocabulary)": top_p != 1,
            f"rollout.top_k={top_k} (likewise)": top_k not in (-1, 0),
            "model.use_liger": model.get("use_liger"),
            "actor.use_prefix_grouper (which verl's V1 trainers do not read)": actor.get("use_prefix_grouper"),
            "reward.reward_model": config["reward"]["reward_model"]["enable"],
            "trainer.default_hdfs_dir": trainer.get("default_hdfs_dir"),
            f"trainer.logger={','.join(trackers)}": set(trackers) - set(RUN_TRACKERS),
        }
    )
