"""What DGPO refuses of verl's configuration, before Ray starts a worker and a model is loaded."""

import logging
import re
from typing import Any

from dgpo.engines.hints import OTHER
from dgpo.engines.verl.checks_megatron import check_megatron_engine
from dgpo.engines.verl.config import SEPARATE_ASYNC, TRAINER_MODES, read_settings
from dgpo.errors import ConfigError

logger = logging.getLogger(__name__)

ADVANTAGES = (
    *("grpo", "grpo_vectorized", "gdpo", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg"),
    "reinforce_plus_plus_baseline",
)
"""verl's estimators that give all tokens of a completion one advantage, which DGPO then redistributes."""

SEQUENCE_LOSSES = ("gspo", "geo_mean")
"""verl's losses with one ratio for a whole completion."""

FSDP, MEGATRON = ("fsdp", "fsdp2"), "megatron"
"""verl's strategies in whose engines DGPO has a head."""


def check_start(config: Any) -> None:
    """Check a run of verl before Ray starts, whichever trainer it asks for.

    Args:
        config: verl's whole configuration, as Hydra composes it.

    Raises:
        ConfigError: Where it asks for DGPO and cannot be it.
    """
    mode = config["trainer"]["v1"]["trainer_mode"]
    if mode in TRAINER_MODES or mode == SEPARATE_ASYNC:
        check_config(config)
    elif config["algorithm"].get("dgpo"):
        logger.warning("algorithm.dgpo is not read: trainer.v1.trainer_mode=%s is verl's own trainer.", mode)


def check_config(config: Any) -> None:
    """Refuse a configuration with which DGPO cannot run, or would silently be something else.

    Args:
        config: verl's whole configuration, as Hydra composes it.

    Raises:
        ConfigError: Naming the key, its value, the reason and the remedy.

    Example:
        >>> check_config({"algorithm": {"dgpo": {"tua": 0.5}}})
        Traceback (most recent call last):
        dgpo.errors.ConfigError: algorithm.dgpo.tua is not a setting of DGPO. Did you mean 'tau'? There are: tau, ...
    """
    settings = read_settings(config)
    rule = settings.rule
    _check_trainer(config["trainer"])
    _check_algorithm(config)
    part = config["actor_rollout_ref"]
    pays_kl = part["actor"].get("use_kl_loss") or config["algorithm"].get("use_kl_in_reward")
    has_reference = bool(rule.traits.needs_reference or pays_kl)
    _check_engine(part, has_reference=has_reference)
    _check_sequence_parallel(part, has_reference=has_reference)
    if rule.traits.needs_hint:
        _check_hint_pass(rule.name, part["actor"])
        _check_hint_control(settings.hint_control, config["data"]["train_batch_size"])
    if not part.get("hybrid_engine", True):
        raise ConfigError(
            "actor_rollout_ref.hybrid_engine=False puts policy and reference on different workers; DGPO compares them"
            " on one. Set it to True."
        )
    _check_temperature(part["rollout"]["temperature"])


def model_parallel_size(actor: Any) -> int:
    """Return how many ranks share a model, and with it its sequences: each data-parallel replica is so many.

    Args:
        actor: `actor_rollout_ref.actor` of verl's configuration.

    Returns:
        1 under FSDP without Ulysses.

    Example:
        >>> sizes = {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 2}
        >>> model_parallel_size({"strategy": "megatron", "megatron": sizes})
        16
    """
    if actor["strategy"] != MEGATRON:
        return sequence_parallel_size(actor)
    return int(actor["megatron"]["tensor_model_parallel_size"] * actor["megatron"]["pipeline_model_parallel_size"])


def sequence_parallel_size(role: Any) -> int:
    """Return how many ranks share a sequence (Ulysses).

    verl has two keys for it. That of the role is deprecated, is always there, and overrides `fsdp_config`'s only where
    it is above 1.

    Args:
        role: `actor_rollout_ref.actor` or `.ref` of verl's configuration.

    Returns:
        The size, 1 where no sequence is split.

    Example:
        >>> sequence_parallel_size(
        ...     {"ulysses_sequence_parallel_size": 1, "fsdp_config": {"ulysses_sequence_parallel_size": 2}}
        ... )
        2
    """
    own = role.get("ulysses_sequence_parallel_size") or 1
    engine = (role.get("fsdp_config") or {}).get("ulysses_sequence_parallel_size") or 1
    return int(own if own > 1 else engine)


def _check_trainer(trainer: Any) -> None:
    if not trainer.get("use_v1", True):
        raise ConfigError(
            "trainer.use_v1=False starts verl's older trainer, which reads no trainer.v1.trainer_mode: the run would be"
            " GRPO. Set it to True."
        )
    if trainer["v1"]["trainer_mode"] == SEPARATE_ASYNC:
        raise ConfigError(
            f"trainer.v1.trainer_mode={SEPARATE_ASYNC!r} is not built: verl's separate_async restores older weights for"
            " the pass of old log-probabilities, which DGPO's workers do not, and sends weights by NCCL, NIXL or"
            " Mooncake alone, so that it could not be tried. Use 'dgpo_colocate_async', or 'dgpo'."
        )


def _check_temperature(temperature: Any) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not temperature > 0:
        raise ConfigError(
            f"actor_rollout_ref.rollout.temperature={temperature!r} must be a number above 0 (sampling at 0 is greedy"
            " and has no distribution). Use 1.0."
        )


def _check_algorithm(config: Any) -> None:
    algorithm = config["algorithm"]
    correction = algorithm.get("rollout_correction") or {}
    if correction.get("bypass_mode", False):
        raise ConfigError(
            "algorithm.rollout_correction.bypass_mode=True skips the policy's pass of old log-probabilities, in which"
            " DGPO measures each token's distance from the reference. Set it to False."
        )
    estimator = algorithm["adv_estimator"]
    if estimator not in ADVANTAGES:
        raise ConfigError(
            f"algorithm.adv_estimator={estimator!r} already gives each token an advantage of its own (or is not known);"
            f" DGPO redistributes that of a whole completion. Use grpo, or one of {', '.join(ADVANTAGES[1:])}."
        )
    loss_mode = (config["actor_rollout_ref"]["actor"].get("policy_loss") or {}).get("loss_mode", "vanilla")
    if loss_mode in SEQUENCE_LOSSES:
        raise ConfigError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={loss_mode!r} gives all tokens of a completion one ratio;"
            " weights with mean 1 would cancel and leave a sequence-level loss. Use 'vanilla'."
        )
    if loss_mode == "bypass_mode":
        raise ConfigError(
            "actor_rollout_ref.actor.policy_loss.loss_mode='bypass_mode' takes the old log-probabilities for the"
            " rollout's, and DGPO's are the policy's own. Use 'vanilla'."
        )
    if (config.get("distillation") or {}).get("enabled", False):
        raise ConfigError(
            "distillation.enabled=True needs logits of the whole vocabulary, which DGPO's engine never has. Set it to"
            " False."
        )


def _check_engine(part: Any, *, has_reference: bool) -> None:
    strategy, ref_strategy, model = part["actor"]["strategy"], part["ref"]["strategy"], part["model"]
    if strategy not in (*FSDP, MEGATRON):
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={strategy!r} is not built: DGPO takes the place of the LM head in"
            " verl's FSDP and Megatron engines, and the others compute theirs in their own code. Use 'fsdp2', 'fsdp' or"
            " 'megatron'."
        )
    if (ref_strategy in FSDP) != (strategy in FSDP) or ref_strategy not in (*FSDP, MEGATRON):
        raise ConfigError(
            f"actor_rollout_ref.ref.strategy={ref_strategy!r} is not built beside actor.strategy={strategy!r}: DGPO"
            f" compares the two token by token. Use {strategy!r}."
        )
    if strategy == MEGATRON:
        check_megatron_engine(part, has_reference=has_reference, has_adapter=_has_adapter(model))
    elif model.get("use_fused_kernels", False):
        raise ConfigError(
            "actor_rollout_ref.model.use_fused_kernels=True replaces the LM head by verl's kernels; DGPO replaces it by"
            " its own, which hold no logits either. Set it to False."
        )
    if (model.get("mtp") or {}).get("enable", False):
        raise ConfigError(
            "actor_rollout_ref.model.mtp.enable=True adds heads that DGPO does not know. Set it to False."
        )
    if part["actor"].get("calculate_sum_pi_squared", False):
        raise ConfigError(
            "actor_rollout_ref.actor.calculate_sum_pi_squared=True needs logits of the whole vocabulary, which DGPO's"
            " engine never has; only estimators that DGPO does not take use the sum. Set it to False."
        )
    adapted = model.get("target_modules")
    if _lora_rank(model) > 0 and _covers_head(adapted) and not _covers_head(model.get("exclude_modules")):
        raise ConfigError(
            f"actor_rollout_ref.model.target_modules={adapted!r} trains the LM head by an adapter, which DGPO's head"
            " does not follow. Leave lm_head out; 'all-linear' does."
        )


def _covers_head(modules: Any) -> bool:
    """Return whether PEFT finds the LM head among these modules: names, or a string for a regular expression."""
    if modules is None or (isinstance(modules, str) and modules.lower() == "all-linear"):
        return False
    if not isinstance(modules, str):
        return "lm_head" in modules
    try:
        return re.fullmatch(modules, "lm_head") is not None
    except re.error as error:
        raise ConfigError(
            f"actor_rollout_ref.model: PEFT takes {modules!r} for a regular expression, and it is none: {error}. Use"
            " 'all-linear', or a list of names."
        ) from None


def _check_sequence_parallel(part: Any, *, has_reference: bool) -> None:
    # Under LoRA the actor is its own reference, and verl does not build what `ref` describes.
    roles = ("actor", "ref") if has_reference and not _has_adapter(part["model"]) else ("actor",)
    sizes = {role: sequence_parallel_size(part[role]) for role in roles}
    if max(sizes.values()) > 1:
        attention = (part["model"].get("override_config") or {}).get("attn_implementation", "flash_attention_2")
        if attention not in ("flash_attention_2", "flash_attention_3"):
            raise ConfigError(
                f"ulysses_sequence_parallel_size={max(sizes.values())} with attn_implementation={attention!r}: verl"
                " exchanges heads for tokens in flash attention only; with any other, each rank attends to its own"
                " piece of the sequence and the numbers are silently wrong. Use flash_attention_2, or 1."
            )
        if len(set(sizes.values())) > 1:
            raise ConfigError(
                f"ulysses_sequence_parallel_size is {sizes['actor']} for the actor and {sizes['ref']} for the"
                " reference; DGPO compares them token by token. Give both the same: set"
                " actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size and that of"
                " actor_rollout_ref.ref.fsdp_config."
            )


def _check_hint_pass(rule: str, actor: Any) -> None:
    if actor["strategy"] == MEGATRON:
        raise ConfigError(
            f"algorithm.dgpo.rule={rule!r} with actor.strategy='megatron' is not built: the reference is run on prompts"
            " with a hint and without, of two lengths, and the states that DGPO keeps of Megatron's schedules belong to"
            " one. Use 'fsdp2'."
        )
    if sequence_parallel_size(actor) > 1:
        raise ConfigError(
            f"algorithm.dgpo.rule={rule!r} with ulysses_sequence_parallel_size={sequence_parallel_size(actor)} is not"
            " built: a response lies on other ranks after a prompt with a hint than without. Use 1."
        )


def _check_hint_control(control: str | None, num_prompts: int) -> None:
    if control == OTHER and num_prompts == 1:
        raise ConfigError(
            "algorithm.dgpo.hint_control='other', the default, compares with the hint of another prompt of the batch,"
            " and data.train_batch_size=1. Raise it; or name an entry of extra_info with a hint to compare with; or set"
            " algorithm.dgpo.hint_control='plain', for a model that was taught to read hints."
        )


def _lora_rank(model: Any) -> int:
    return int((model.get("lora") or {}).get("rank", 0) or model.get("lora_rank", 0) or 0)


def _has_adapter(model: Any) -> bool:
    return _lora_rank(model) > 0 or model.get("lora_adapter_path") is not None
