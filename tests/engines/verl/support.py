"""A tiny model, prompts, verl's configuration for the CPU, and processes to run it in."""

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
RECIPES = HERE.parents[2] / "recipes" / "verl"
VOCAB = 512

MEGATRON = Path(sys.prefix) / "megatron"
"""Where megatron-core is, outside of the packages that every process of the tests loads."""

# What every run of the tests needs of verl's configuration, and nothing of DGPO.
BASE = (
    *("trainer.device=cpu", "trainer.n_gpus_per_node=1", "trainer.nnodes=1", "trainer.logger=[console,file]"),
    *("trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.total_epochs=1"),
    *("trainer.total_training_steps=2", "trainer.resume_mode=disable", "trainer.use_v1=True"),
    *("data.train_batch_size=4", "data.max_prompt_length=64", "data.max_response_length=12"),
    "data.dataloader_num_workers=0",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.model.enable_gradient_checkpointing=False",
    *("actor_rollout_ref.rollout.name=hfcpu", "actor_rollout_ref.rollout.n=4"),
    *("actor_rollout_ref.rollout.tensor_model_parallel_size=1", "actor_rollout_ref.rollout.agent.num_workers=1"),
    *("actor_rollout_ref.rollout.n_gpus_per_node=1", "actor_rollout_ref.rollout.load_format=auto"),
    "actor_rollout_ref.rollout.calculate_log_probs=False",
    *("actor_rollout_ref.rollout.prompt_length=64", "actor_rollout_ref.rollout.response_length=12"),
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    *("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4"),
    *("actor_rollout_ref.actor.use_torch_compile=False", "actor_rollout_ref.actor.optim.lr=1e-3"),
    *(
        f"+actor_rollout_ref.{role}.fsdp_config.mixed_precision={{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}}"
        for role in ("actor", "ref")
    ),
    *(f"actor_rollout_ref.{role}.fsdp_config.model_dtype=fp32" for role in ("actor", "ref")),
    *(f"actor_rollout_ref.{role}.fsdp_config.use_torch_compile=False" for role in ("actor", "ref")),
    *(f"actor_rollout_ref.{role}.strategy=fsdp2" for role in ("actor", "ref")),
    *("algorithm.adv_estimator=grpo", "reward.num_workers=1"),
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
)

DGPO = ("trainer.v1.trainer_mode=dgpo",)


def shell(**more: str) -> dict[str, str]:
    """The environment of a user's shell: without what the tests of this folder set for their own processes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DGPO_", "VERL_"))}
    return {**inherited, "PYTHON": sys.executable, **more}


def environment(**more: str) -> dict[str, str]:
    """Environment of a process in which verl runs on the CPU."""
    settings = {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONWARNINGS": "ignore",
    }
    # Ray has one GPU that is only a label; it would look for it among the visible ones.
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS")
    }
    return {**inherited, **settings, **more}


def make_model(folder: Path) -> str:
    """A random Qwen2 with a head of its own, its tokenizer, and prompts; returns the model's path."""
    import pandas as pd
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["what is 1 + 2 ? answer user assistant"] * 10, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    path = folder / "tiny-qwen2"
    fast.save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    ids = {"pad_token_id": fast.pad_token_id, "eos_token_id": fast.eos_token_id, "bos_token_id": None}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, **sizes, **heads, **ids)).save_pretrained(path)
    rows = [
        {
            "data_source": "toy",
            "prompt": [{"role": "user", "content": f"what is {i % 7} + {i % 5} ?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(i % 7 + i % 5)},
            "extra_info": {"index": i},
        }
        for i in range(64)
    ]
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")
    pd.DataFrame(rows[:4]).to_parquet(folder / "val.parquet")
    return str(path)


def make_variant(model: str, folder: Path, **changed) -> str:
    """A random model with another configuration and the same tokenizer; the prompts stay beside the first one."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, Qwen2ForCausalLM

    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(AutoConfig.from_pretrained(model, **changed)).save_pretrained(folder)
    return str(folder)


def data_overrides(model: str) -> tuple[str, ...]:
    """Overrides that name the model and the prompts beside it."""
    folder = Path(model).parent
    return (
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
    )


def compose_config(*overrides: str, config_name: str = "ppo_trainer", engine: str = "dp"):
    """verl's configuration as its command line would compose it; what is FSDP's is left out for other engines."""
    import verl
    from hydra import compose, initialize_config_dir

    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(str(folder), version_base=None):
        base = [key for key in BASE if engine == "dp" or not any(mark in key for mark in ("fsdp", "torch_compile"))]
        return compose(config_name, overrides=[f"model_engine={engine}", *base, *overrides])


@functools.cache
def recipe_module(name: str) -> ModuleType:
    """A module of recipes/verl."""
    spec = importlib.util.spec_from_file_location(f"verl_recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe_check() -> ModuleType:
    """The module recipes/verl/check.py."""
    return recipe_module("check")


def run_ranks(script: str, *args: str, ranks: int, path: Path | None = None) -> list[dict]:
    """Run a script in one process a rank and return what each printed as its last line, parsed from JSON.

    A folder of modules that only these processes need is its `path`.
    """
    from process_groups import run_processes  # the ranks import this module too, and find no folder of tests

    command = [sys.executable, str(HERE / script), *args]
    count = {"LOCAL_WORLD_SIZE": str(ranks), "RAY_LOCAL_WORLD_SIZE": str(ranks)}
    variables = environment(**count)
    if path is not None:
        variables["PYTHONPATH"] += f"{os.pathsep}{path}"
    printed = run_processes(command, variables, ranks=ranks)
    return [json.loads(out.strip().splitlines()[-1]) for out in printed]
