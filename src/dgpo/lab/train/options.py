"""The fields that `dgpo train` adds to TRL's, and those of TRL's that it does not offer."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class RunOptions:
    """What `dgpo train` adds to the fields of `trl.ModelConfig` and `dgpo.DGPOConfig`."""

    task: str | None = field(
        default=None,
        metadata={"help": "Where prompts and answers come from: forks, reasoning_gym:<name>, a file, a hub data set."},
    )
    task_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the task, such as num_forks of forks."}
    )
    rewards: list[str] | None = field(
        default=None,
        metadata={
            "help": "Reward functions by name, or your own as my_rewards.py:function or my_package:function; by "
            "default the task's own. The first is the accuracy."
        },
    )
    reward_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Options of rewards by their names, such as {my_function: {scale: 2.0}}."},
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Longest prompt in tokens; by default what the model can hold beside a completion."},
    )
    long_prompts: str = field(
        default="refuse",
        metadata={"help": "What becomes of longer prompts, before training.", "choices": ("refuse", "drop")},
    )
    eval_size: int | None = field(
        default=None, metadata={"help": "Held-out prompts; by default the task's own choice, mostly 256; 0 for none."}
    )
    eval_before_and_after: bool = field(
        default=True, metadata={"help": "Measure the held-out accuracy before the first and after the last step."}
    )
    eval_task: str | None = field(
        default=None, metadata={"help": "A task of `dgpo eval` to measure while training; see eval_every."}
    )
    eval_every: int = field(default=0, metadata={"help": "Steps between two measurements of eval_task; 0 for none."})
    eval_samples: int = field(
        default=8, metadata={"help": "Completions per problem of eval_task, the k of eval/avg@k and eval/pass@k."}
    )
    completions_every: int = field(
        default=1, metadata={"help": "Keep the completions of every n-th logged step; 0 keeps none."}
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of torch on the CPU; by default one a core. Tiny models are fastest with 1."},
    )


NOT_OFFERED = {
    "resume_from_checkpoint": "use `dgpo train --resume RUN_DIR`, which also checks that the checkpoint fits",
    "hub_token": "a recipe is copied into the run directory; set the environment variable HF_TOKEN instead",
    "do_train": "`dgpo train` always trains",
    "do_eval": "set eval_before_and_after, or eval_strategy for evaluations in between",
    "do_predict": "DGPO has no prediction step; set eval_before_and_after",
    "local_rank": "the launcher (torchrun, accelerate launch) sets it",
    "auto_find_batch_size": "it breaks groups of completions; lower per_device_train_batch_size instead",
    "log_completions": "completions are kept in the run directory; see completions_every",
    "use_transformers_paged": "deprecated by TRL; use use_transformers_continuous_batching",
    "vllm_importance_sampling_cap": "deprecated by TRL; use vllm_importance_sampling_clip_max",
    "parallelism_config": "TRL's GRPO trainer does not support it",
    **dict.fromkeys(
        ("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
        "quantized models are not supported: the divergence needs the true weights of the head; use LoRA in bf16",
    ),
    "lora_task_type": "it is always CAUSAL_LM here",
}
"""Fields of TRL's classes that a recipe cannot set, and what to do instead."""

NICKNAMES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "group_size": "num_generations",
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "dataset": "task",
    "dataset_name": "task",
    "reward_funcs": "rewards",
    "steps": "max_steps",
    "epochs": "num_train_epochs",
    "torch_dtype": "dtype",
    "max_length": "max_completion_length",
}
"""What people type for a field whose name looks quite different."""
