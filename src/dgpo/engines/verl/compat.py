"""Everything this adapter relies on in verl: one list, which a contract test and every start of a run compare.

`OVERRIDDEN` and `CALLED` name each method and function with its parameters. `hook_differences` compares them with the
installed verl, so that another version fails in one place, by the name of the hook that differs. What a signature
cannot say is listed here:

- fields of a batch in TransferQueue: `response_mask`, `old_log_probs`, `entropy`, `advantages`, `rm_scores`, `prompts`,
  `responses` and `input_ids` are read, `ref_log_prob` and `advantages` are written, each a nested tensor; of the data
  set `raw_prompt`, `reward_model` and `extra_info`, a stack of values each; a key is `{uid}_{session}_{index}`, and
  rows of padding carry the tag `is_padding`;
- `compute_log_prob` of the workers stores whatever the engine returns, under its names;
- what is set in `extra_info` of a batch reaches the engines' micro-batches as non-tensor data;
- a reference is built where `actor.use_kl_loss` or `use_kl_in_reward` is set, and `ref` of a worker is then its engine;
- verl's engine reads the output of `module(**inputs)` by `prepare_model_outputs` alone, under the autocast of
  `_autocast_dtype`; `_is_lora` says whether there is an adapter to switch off;
- `EngineRegistry._engines` holds engines by model type, backend and device; one with the vendor in its key precedes one
  without.

`tests/engines/verl/test_contract.py` has a test for each of them.
"""

import functools
import importlib
import inspect
from typing import Any

from dgpo.errors import UnsupportedVersionError
from dgpo.versions import check_version, requirement

SUPPORTED = ((0, 9, 1), (0, 9, 2))
"""Lowest supported release, and the first one that is not supported any more."""

Hooks = dict[str, dict[str, tuple[str, ...]]]
"""`module:class`, or `module` alone, then each function with the names of its parameters."""

TRAINERS = (
    "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync",
    "verl.trainer.ppo.v1.trainer_colocate_async:PPOTrainerColocateAsync",
)
ENGINE = "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead"
WORKER = "verl.workers.engine_workers:ActorRolloutRefWorker"

_STAGES = {
    "__init__": ("self", "config"),
    "_init_dataloader": ("self",),
    "_init_resource_pool_mgr": ("self",),
    "on_init_end": ("self",),
    "_compute_old_log_prob": ("self", "batch", "metrics"),
    "_compute_ref_log_prob": ("self", "batch", "metrics"),
    "_compute_advantage": ("self", "batch", "metrics"),
    "_update_actor": ("self", "batch", "metrics"),
}

OVERRIDDEN: Hooks = {
    **dict.fromkeys(TRAINERS, _STAGES),
    ENGINE: {
        "_build_module": ("self",),
        "forward_backward_batch": ("self", "data", "loss_function", "forward_only"),
        "forward_step": ("self", "micro_batch", "loss_function", "forward_only"),
        "prepare_model_outputs": ("self", "output", "output_args", "micro_batch", "logits_processor_func"),
    },
    WORKER: {"init_model": ("self",)},
}
"""Methods that `CreditStages`, `HeadStatistics` and `DGPOWorker` override."""

CALLED: Hooks = {
    ENGINE: {
        "prepare_model_inputs": ("self", "micro_batch"),
        "eval_mode": ("self", "kwargs"),
        "disable_adapter": ("self",),
        "_gather_and_unpad_packed": ("self", "tensor", "pad_size"),
    },
    "verl.workers.engine.base:EngineRegistry": {"register": ("model_type", "backend", "device", "vendor")},
    "verl.trainer.ppo.v1.trainer_base": {"register_trainer": ("name",)},
    "verl.single_controller.base.decorator": {
        "register": ("dispatch_mode", "execute_mode", "blocking", "materialize_futures")
    },
    "verl.workers.utils.padding": {
        "response_from_nested": ("tensor", "response_mask"),
        "response_to_nested": ("tensor", "response_mask"),
    },
    "verl.utils.config": {"validate_config": ("config", "use_reference_policy", "use_critic")},
    "verl.utils.tensordict_utils": {
        "get_non_tensor_data": ("data", "key", "default"),
        "index_select_tensor_dict": ("batch", "indices"),
    },
    "verl.utils.seqlen_balancing": {
        "calculate_workload": ("seqlen_list",),
        "get_seqlen_balanced_partitions": ("seqlen_list", "k_partitions", "equal_size"),
    },
    "verl.utils.tokenizer.chat_template": {
        "apply_chat_template": (
            *("processor", "messages", "tokenize", "add_generation_prompt", "tools", "return_dict", "kwargs"),
        )
    },
    "verl.utils.tokenizer.tokenizer": {"normalize_token_ids": ("tokenized_output",)},
    "verl.utils.device": {"get_device_id": (), "get_device_name": ()},
    "verl.plugin.platform": {"get_platform": ()},
    "verl.trainer.ppo.utils": {"need_reference_policy": ("config",)},
    "transfer_queue": {
        "kv_batch_get": ("keys", "partition_id", "select_fields"),
        "kv_batch_put": ("keys", "partition_id", "fields", "tags", "data_parser"),
        "KVBatchMeta": ("keys", "tags", "partition_id", "fields", "extra_info"),
    },
    "transfer_queue:KVBatchMeta": {"select_keys": ("self", "keys_to_select")},
}
"""Functions and methods that are called."""


MEGATRON = "verl.workers.engine.megatron.transformer_impl:MegatronEngineWithLMHead"

MEGATRON_OVERRIDDEN: Hooks = {
    MEGATRON: {
        "_maybe_enable_fused_kernels": ("self",),
        "forward_backward_batch": ("self", "data", "loss_function", "forward_only"),
        "forward_step": ("self", "batch_iter", "model", "logits_processor_func", "postprocess_micro_batch_func"),
        "prepare_model_outputs": ("self", "output", "data"),
    }
}
"""Methods that `DGPOMegatronEngine` overrides."""

MEGATRON_CALLED: Hooks = {
    MEGATRON: {
        "eval_mode": ("self", "kwargs"),
        "postprocess_micro_batch_func": ("self", "output", "data", "forward_only", "loss_function", "local_cp_size"),
    },
    "verl.models.mcore.model_forward_fused": {"linear_cross_entropy": ("args", "kwargs")},
    "verl.utils.kernel.linear_cross_entropy:LinearCrossEntropy": {
        "forward": ("ctx", "hidden", "weight", "labels", "temperature", "reduction", "dist_process_group")
    },
    "verl.utils.megatron_utils": {"unwrap_model": ("model", "module_instances")},
}
"""What else it relies on: `linear_cross_entropy` is what it answers in place of."""


def hook_differences(tables: tuple[Hooks, ...] = (OVERRIDDEN, CALLED)) -> list[str]:
    """Return what of the installed verl differs from tables of hooks.

    Args:
        tables: By default those that every run relies on.

    Returns:
        One entry a hook, with the parameters that it has and those that it should have; empty where all are the same.

    Example:
        >>> hook_differences()
        []
    """
    differences = []
    for hooks in tables:
        for owner, functions in hooks.items():
            for name, parameters in functions.items():
                installed = _parameters_of(owner, name)
                if installed != parameters:
                    actual = f"takes ({', '.join(installed)})" if installed is not None else "is not there"
                    differences.append(f"{owner.replace(':', '.')}.{name} {actual}, not ({', '.join(parameters)})")
    return differences


def _parameters_of(owner: str, name: str) -> tuple[str, ...] | None:
    """Names of the parameters of a function; None where there is no such function."""
    module, _, cls = owner.partition(":")
    try:
        namespace: Any = importlib.import_module(module)
        function = getattr(getattr(namespace, cls) if cls else namespace, name)
    except (ImportError, AttributeError):
        return None
    return tuple(inspect.signature(function).parameters)


@functools.cache
def check_verl_version() -> None:
    """Refuse a verl that has not been tested, or one of whose hooks differs.

    `DGPO_ALLOW_UNTESTED_VERL=1` tries another version all the same, with one warning a process, if every hook is as it
    was.

    Raises:
        UnsupportedVersionError: If verl is absent, of another version, or a hook differs; it names the hook.

    Example:
        >>> check_verl_version()
    """
    check_version("verl", SUPPORTED, find_differences=hook_differences)


@functools.cache
def check_megatron() -> None:
    """Refuse Megatron where megatron-core is absent, or a hook of verl's Megatron engine differs.

    Raises:
        UnsupportedVersionError: With the remedy; it names the hook.
    """
    try:
        import megatron.core  # noqa: F401
    except ImportError as error:
        raise UnsupportedVersionError(
            f"actor_rollout_ref.actor.strategy='megatron' needs megatron-core ({error}). Install it on every node: pip"
            " install megatron-core (0.16.1 has been tested), beside what verl's own documents name; or use 'fsdp2'."
        ) from None
    differences = hook_differences((MEGATRON_OVERRIDDEN, MEGATRON_CALLED))
    if differences:
        raise UnsupportedVersionError(
            "verl's Megatron engine has hooks that dgpo relies on and that differ from those of the verl that was"
            f" tested: {'; '.join(differences)}. Run: pip install '{requirement('verl', SUPPORTED)}', or use 'fsdp2'."
        )
