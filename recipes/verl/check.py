"""Validates recipes of this folder without a GPU, a cluster or a model, and prints what would run.

    python recipes/verl/check.py                                   every recipe, scale and objective
    python recipes/verl/check.py math scale=7b objective=dapo ...  one run, as run.sh starts it

Hydra composes the configuration as verl's command line does; verl's own validation and dataclasses judge it, DGPO's
checks, and a few rules that verl would only apply after the models are loaded. What this cannot see: vLLM, NCCL,
flash-attn, and whether memory suffices.
"""

import copy
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCALES, OBJECTIVES = ("32b", "7b"), ("dgpo", "dapo", "grpo")
RUNS = (
    *(("math", f"scale={scale}", f"objective={objective}") for scale in SCALES for objective in OBJECTIVES),
    *(("math", "scale=32b", "strategy=megatron", f"objective={objective}") for objective in OBJECTIVES),
    *(("quick", f"objective={objective}") for objective in OBJECTIVES),
)
"""Every run of this folder."""

# config.json of Qwen/Qwen2.5-32B and -7B, without what a check does not read.
SHAPES = {
    "32b": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
    "quick": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
_KEY_VALUE_HEADS = {"32b": 8, "7b": 4, "quick": 4}


def compose(recipe: str, *overrides: str) -> Any:
    """Return the configuration that `run.sh recipe overrides` would start verl with."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(HERE), version_base=None):
        return hydra_compose(recipe, overrides=list(overrides))


def placeholder_model(folder: Path, shape: str) -> Path:
    """Write what verl reads of a model before its weights: the configuration's shape, and a tokenizer of two tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    path = folder / shape
    two_tokens = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=two_tokens, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(path)
    qwen = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152064}
    sizes = {"num_key_value_heads": _KEY_VALUE_HEADS[shape], "max_position_embeddings": 131072, **SHAPES[shape]}
    (path / "config.json").write_text(json.dumps({**qwen, **sizes, "tie_word_embeddings": False}))
    return path


def problems_of(config: Any) -> list[str]:
    """Return why a run of this configuration could not work; empty if no reason is known."""
    problems = []
    for check in (_check_complete, _check_dgpo, _check_verl, _check_reward, _check_sizes):
        try:
            check(copy.deepcopy(config))
        except Exception as error:  # verl asserts, raises ValueError, and more: all of them are problems here
            if not any(str(error) in problem for problem in problems):
                problems.append(f"{check.__name__.removeprefix('_check_')}: {type(error).__name__}: {error}")
    return problems


def is_dgpo(config: Any) -> bool:
    """Return whether a run of this configuration is DGPO."""
    from dgpo.engines.verl.config import TRAINER_MODES

    return config.trainer.v1.trainer_mode in TRAINER_MODES


def _check_complete(config: Any) -> None:
    from omegaconf import OmegaConf

    # verl's own open key is the rollout of a reward model, which there is none of.
    missing = [name for name in _missing(OmegaConf.to_container(config)) if not name.startswith("reward.reward_model.")]
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}; run.sh fills in paths.*")
    OmegaConf.to_container(config, resolve=True)


def _missing(tree: Any, name: str = "") -> list[str]:
    if isinstance(tree, dict):
        return [missing for key, value in tree.items() for missing in _missing(value, f"{name}.{key}")]
    return [name[1:]] if tree == "???" else []


def _check_dgpo(config: Any) -> None:
    """DGPO's own checks, and the mistakes that DGPO cannot see from inside of a run."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    from dgpo.engines.verl.checks import check_config

    try:
        get_trainer_cls(config.trainer.v1.trainer_mode)
    except ValueError as error:
        raise ValueError(_why_inactive() if is_dgpo(config) else str(error)) from None
    if not config.trainer.use_v1:
        raise ValueError("trainer.use_v1=False ignores trainer.v1.trainer_mode: this would not be DGPO")
    if is_dgpo(config):
        check_config(config)
    elif "dgpo" in config.algorithm:
        raise ValueError(
            f"algorithm.dgpo is set, and trainer.v1.trainer_mode is {config.trainer.v1.trainer_mode!r}: this would be "
            "verl's own trainer; set it to dgpo, or take algorithm.dgpo out"
        )


def _why_inactive() -> str:
    """Return why verl does not know DGPO's trainer: its own message is only that it does not."""
    from importlib.metadata import entry_points

    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    start = "trainer.v1.trainer_mode=dgpo asks for DGPO, but dgpo's plugin for verl is not active: "
    if not any(entry.name == "dgpo" for entry in entry_points(group="verl.plugins")):
        return f"{start}dgpo is not installed in the environment of {sys.executable}. Run: pip install 'dgpo[verl]'"
    if policy.strip().lower() != "auto":
        return f"{start}VERL_USE_EXTERNAL_PLUGINS={policy} leaves it out. Unset it, or name dgpo in it."
    return f"{start}verl was imported without it; `python -c 'import dgpo.engines.verl.plugin'` gives the reason."


def _check_verl(config: Any) -> None:
    """verl's validation of the whole, and its dataclasses of the parts, as its trainer and workers build them."""
    from omegaconf import open_dict
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    from dgpo.engines.verl.config import prepare_config

    if is_dgpo(config):
        prepare_config(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    part = config.actor_rollout_ref
    if part.actor.use_dynamic_bsz != part.rollout.log_prob_use_dynamic_bsz:
        raise ValueError(
            "actor.use_dynamic_bsz and rollout.log_prob_use_dynamic_bsz differ; verl's worker asserts this"
        )
    with open_dict(part.ref):  # as ActorRolloutRefWorker.init_model renames them
        part.ref.ppo_mini_batch_size = part.actor.ppo_mini_batch_size
        for name in ("micro_batch_size", "micro_batch_size_per_gpu", "max_token_len_per_gpu"):
            part.ref[f"ppo_{name}"] = part.ref.pop(f"log_prob_{name}", None)
        part.ref.use_dynamic_bsz = part.ref.pop("log_prob_use_dynamic_bsz", False)
    for section in (part.actor, part.ref, part.rollout, part.rollout.checkpoint_engine):
        omega_conf_to_dataclass(section)
    plain = config.algorithm.copy()
    with open_dict(plain):
        plain.pop("dgpo", None)
    omega_conf_to_dataclass(plain)
    if Path(part.model.path).is_dir():  # a name on the hub would be downloaded
        omega_conf_to_dataclass(part.model)


def _check_reward(config: Any) -> None:
    """The reward function can be imported and its reward manager accepts the overlong penalty."""
    from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls

    manager = resolve_reward_manager_cls(config)
    if get_custom_reward_fn(config) is None:
        raise ValueError("reward.custom_reward_function.path is not set: verl would guess a scorer by data_source")
    penalty = config.reward.reward_kwargs.overlong_buffer_cfg
    if penalty.enable:
        if manager.__name__ != "DAPORewardManager":
            raise ValueError(f"{manager.__name__} knows no overlong penalty; use reward.reward_manager.name=dapo")
        if not 0 < penalty.len <= config.reward.reward_kwargs.max_resp_len:
            raise ValueError(f"overlong_buffer_cfg.len={penalty.len} is not within a completion")


def _check_sizes(config: Any) -> None:
    """What verl asserts only once the models are loaded or the first batch is there."""
    from dgpo.engines.verl.checks import model_parallel_size, sequence_parallel_size

    part, gpus = config.actor_rollout_ref, num_gpus(config)
    update = part.actor.ppo_mini_batch_size * part.rollout.n
    longest = config.data.max_prompt_length + config.data.max_response_length
    sharing = sequence_parallel_size(part.actor)  # GPUs that hold a sequence together
    together = model_parallel_size(part.actor)
    shards = gpus // together
    rules = {
        f"{gpus} GPUs must divide by the {together} that share a model": not gpus % together,
        f"an update of {update} completions must divide by {shards} data-parallel ranks": update % shards == 0,
        f"{gpus} GPUs must divide by rollout.tensor_model_parallel_size": not gpus
        % part.rollout.tensor_model_parallel_size,
        f"rollout.max_model_len must hold prompt and completion, {longest}": (part.rollout.max_model_len or longest)
        >= longest,
        "train_batch_size must divide by ppo_mini_batch_size, or verl fills the last update up with copies": not (
            config.data.train_batch_size % part.actor.ppo_mini_batch_size
        ),
    }
    if part.actor.use_dynamic_bsz:
        tokens = part.actor.ppo_max_token_len_per_gpu * sharing
        rules[f"ppo_max_token_len_per_gpu must hold the longest sequence, {longest}"] = tokens >= longest
        scored = part.rollout.log_prob_max_token_len_per_gpu * sharing
        rules[f"log_prob_max_token_len_per_gpu must hold the longest sequence, {longest}"] = scored >= longest
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))


def num_gpus(config: Any) -> int:
    """Return the GPUs of a run."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


def facts(config: Any) -> dict[str, str]:
    """Return what would run, by column."""
    from dgpo.engines.verl.config import read_settings

    part, algorithm = config.actor_rollout_ref, config.algorithm
    actor, rollout, val = part.actor, part.rollout, part.rollout.val_kwargs
    penalty = config.reward.reward_kwargs.overlong_buffer_cfg
    return {
        "objective": f"DGPO, {read_settings(config).rule}" if is_dgpo(config) else "verl's own",
        "GPUs": f"{num_gpus(config)} ({config.trainer.device})",
        "a rollout": f"{config.data.train_batch_size} x {rollout.n}",
        "updates": str(config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs),
        "tokens": f"{config.data.max_prompt_length} + {config.data.max_response_length}",
        "clip": f"{actor.clip_ratio_low:g} / {actor.clip_ratio_high:g}",
        "average over": str(actor.loss_agg_mode),
        "dynamic sampling": algorithm.filter_groups.metric if algorithm.filter_groups.enable else "off",
        "overlong": f"last {penalty.len}" if penalty.enable else "off",
        "evaluation": f"n={val.n} T={val.temperature:g} p={val.top_p:g}",
        "rollouts": str(config.trainer.total_training_steps),
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return rows of the same columns as a Markdown table."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows[0]))]
    lines.insert(1, ["-" * width for width in widths])
    cells = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence verl and its libraries, which warn of every accelerator that is not here."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _paths(arguments: Sequence[str], folder: Path) -> list[str]:
    """Placeholders for the paths that the overrides do not give."""
    shape = next((argument.removeprefix("scale=") for argument in arguments if argument.startswith("scale=")), "32b")
    shape = "quick" if arguments[0] == "quick" else shape if shape in SHAPES else "32b"
    given = {argument.partition("=")[0] for argument in arguments}
    values = {"paths.data": folder, "paths.recipe": HERE} if arguments[0] == "quick" else {"paths.data": folder}
    if "paths.model" not in given:
        values["paths.model"] = placeholder_model(folder, shape)
    return [f"{name}={value}" for name, value in values.items() if name not in given]


def main(arguments: Sequence[str]) -> int:
    """Check one run, or all of them; return 1 if there is a problem."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    runs = [tuple(arguments)] if arguments else list(RUNS)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            name = " ".join(argument for argument in run if not argument.startswith("paths."))
            with _quiet():
                try:
                    config = compose(*run, *_paths(run, Path(folder)))
                    problems = problems_of(config)
                except Exception as error:  # Hydra's: an unknown key, scale or objective
                    problems = [f"compose: {error}"]
            for problem in problems:
                print(f"{name}: {problem}", file=sys.stderr)
            failed = failed or bool(problems)
            if not problems:
                rows.append({"recipe": name, **facts(config)})
    if rows:
        print(table(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
