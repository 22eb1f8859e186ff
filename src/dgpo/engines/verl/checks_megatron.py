"""What DGPO refuses of verl's configuration where its Megatron engine is asked for."""

from typing import Any

from dgpo.errors import ConfigError

MEGATRON_SIZES = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size"),
    *("context_parallel_size", "expert_model_parallel_size", "expert_tensor_parallel_size"),
)
"""Sizes of Megatron's groups, which actor and reference share."""


def check_megatron_engine(part: Any, *, has_reference: bool, has_adapter: bool) -> None:
    """Refuse settings of the Megatron engine with which DGPO cannot run.

    Args:
        part: `actor_rollout_ref` of verl's configuration.
        has_reference: Whether a reference is built.
        has_adapter: Whether an adapter is trained.

    Raises:
        ConfigError: Naming the key, its value, the reason and the remedy.

    Example:
        >>> check_megatron_engine({"actor": {}, "model": {}}, has_reference=True, has_adapter=False)
        Traceback (most recent call last):
        dgpo.errors.ConfigError: actor_rollout_ref.actor.strategy='megatron' without verl's configuration of it. ...
    """
    engine, model = part["actor"].get("megatron"), part["model"]
    if engine is None:
        raise ConfigError(
            "actor_rollout_ref.actor.strategy='megatron' without verl's configuration of it. Leave the key out and"
            " start with model_engine=megatron."
        )
    key = "actor_rollout_ref.actor.megatron"
    if (engine.get("context_parallel_size") or 1) > 1 or engine.get("dynamic_context_parallel"):
        raise ConfigError(
            f"{key}.context_parallel_size={engine.get('context_parallel_size')} (dynamic_context_parallel="
            f"{bool(engine.get('dynamic_context_parallel'))}) splits the tokens of a completion over ranks. DGPO has"
            " never been run so: megatron-core's attention over parts of a sequence needs a GPU. Set it to 1 (False);"
            " a larger tensor_model_parallel_size gives a sequence more memory, too."
        )
    if engine.get("use_megatron_fsdp"):
        raise ConfigError(
            f"{key}.use_megatron_fsdp=True shards the output layer, which is gathered only where it is called; DGPO"
            " reads its weight. Set it to False, or use actor_rollout_ref.actor.strategy=fsdp2."
        )
    if (engine.get("router_replay") or {}).get("mode", "disabled") != "disabled":
        raise ConfigError(
            f"{key}.router_replay.mode={engine['router_replay']['mode']!r} records routes of the policy in the pass in"
            " which DGPO runs the reference as well, and would mix the two. Set it to disabled."
        )
    if not model.get("use_remove_padding", True):
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding=False keeps verl from its fused forward pass, in which DGPO"
            " takes the place of the head. Set it to True."
        )
    if has_adapter:
        raise ConfigError(
            "actor_rollout_ref.model.lora: adapters under Megatron need Megatron-Bridge, which could not be tried, and"
            " DGPO's reference is then the model without them. Use actor_rollout_ref.actor.strategy=fsdp2, or set the"
            " rank to 0."
        )
    sizes = {name: (engine.get(name), part["ref"]["megatron"].get(name)) for name in MEGATRON_SIZES}
    different = [f"{name}={ours} and {theirs}" for name, (ours, theirs) in sizes.items() if ours != theirs]
    if has_reference and different:
        raise ConfigError(
            f"actor_rollout_ref.actor.megatron and .ref.megatron differ: {', '.join(different)}. verl makes Megatron's"
            " groups once, for both. Give both the same; the reference's follow the actor's where they are not given."
        )
