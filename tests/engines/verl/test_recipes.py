"""recipes/verl: each run composes and is valid; the objectives differ in what they are about and in nothing else."""

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "recipes" / "verl"

_spec = importlib.util.spec_from_file_location("verl_recipe_check", RECIPES / "check.py")
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)

DGPO_KEYS = {
    *("algorithm.dgpo.tau", "algorithm.dgpo.kappa", "algorithm.dgpo.credit_log_steps"),
    *("trainer.v1.trainer_mode", "trainer.experiment_name"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {shape: check.placeholder_model(folder, shape) for shape in check.SHAPES}


@pytest.fixture
def compose(models, tmp_path):
    def composed(recipe, *overrides):
        shape = "quick" if recipe == "quick" else "7b" if "scale=7b" in overrides else "32b"
        paths = [f"paths.data={tmp_path}", f"paths.model={models[shape]}"]
        paths += [f"paths.recipe={RECIPES}"] if recipe == "quick" else []
        return check.compose(recipe, *paths, *overrides)

    return composed


def flat(config, prefix="") -> dict:
    """Every leaf by its dotted name, references as they are written."""
    if not isinstance(config, dict):
        return {prefix[:-1]: config}
    return {name: leaf for key, value in config.items() for name, leaf in flat(value, f"{prefix}{key}.").items()}


def differences(one, other) -> set:
    one, other = (flat(OmegaConf.to_container(config)) for config in (one, other))
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def shell(**more: str) -> dict[str, str]:
    """The environment of a user's shell: without what the tests of this folder set for their own processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DGPO_", "VERL_"))}
    return {**kept, "PYTHON": sys.executable, **more}


@pytest.mark.parametrize("run", check.RUNS, ids=" ".join)
def test_every_run_is_valid(compose, run) -> None:
    config = compose(*run)
    assert check.problems_of(config) == []
    assert check.is_dgpo(config) == ("objective=dgpo" in run)


@pytest.mark.parametrize("run", [("math", "scale=32b"), ("math", "scale=7b"), ("quick",)], ids=" ".join)
def test_objectives_differ_only_in_what_they_are_about(compose, run) -> None:
    dgpo, dapo, grpo = (compose(*run, f"objective={objective}") for objective in check.OBJECTIVES)
    assert differences(dgpo, dapo) == DGPO_KEYS | {"actor_rollout_ref.actor.clip_ratio_high"}
    dapos_parts = {"algorithm.filter_groups.enable", "reward.reward_kwargs.overlong_buffer_cfg.enable"}
    if run == ("quick",):  # which has neither
        dapos_parts = set()
    assert differences(dgpo, grpo) == DGPO_KEYS | dapos_parts | {"actor_rollout_ref.actor.loss_agg_mode"}
    # The control that grpo.yaml names: DGPO with all weights 1.
    assert (
        differences(dgpo, compose(*run, "objective=dapo", "actor_rollout_ref.actor.clip_ratio_high=0.2")) == DGPO_KEYS
    )


def test_scales_differ_in_lengths_and_machines_only(compose) -> None:
    assert {name.rpartition(".")[2] for name in differences(compose("math"), compose("math", "scale=7b"))} == {
        *("max_response_length", "ppo_max_token_len_per_gpu", "tensor_model_parallel_size", "max_model_len"),
        *("len", "nnodes", "project_name", "model"),
    }


def test_the_papers_numbers(compose) -> None:
    config = compose("math")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.algorithm.dgpo.tau, config.algorithm.dgpo.kappa, rollout.n) == (0.5, 1.0, 16)
    assert (actor.optim.lr, actor.optim.weight_decay, actor.optim.lr_warmup_steps) == (1e-6, 0.1, 10)
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.optim.clip_grad) == (0.2, 0.2, 1.0)
    assert config.data.train_batch_size // actor.ppo_mini_batch_size == 16
    assert config.data.max_response_length == 16384 + config.reward.reward_kwargs.overlong_buffer_cfg.len
    assert actor.use_kl_loss is False
    assert config.algorithm.use_kl_in_reward is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor_rollout_ref.rollout.temperature=0", "sampling at 0 is greedy"),
        ("algorithm.adv_estimator=gae", "adv_estimator='gae'"),
        ("algorithm.dgpo.tau=0", "algorithm.dgpo.tau"),
        ("trainer.v1.trainer_mode=sync", "this would be verl's own trainer"),
        ("trainer.v1.trainer_mode=dpgo", "Unknown trainer 'dpgo'"),
        ("trainer.use_v1=False", "this would not be DGPO"),
        ("paths.data=???", "no value for paths.data"),
        ("actor_rollout_ref.actor.loss_agg_mode=mean", "Invalid loss_agg_mode"),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384", "must hold the longest sequence, 22528"),
        ("actor_rollout_ref.rollout.max_model_len=8192", "must hold prompt and completion"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=3", "must divide by rollout.tensor"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=3", "must divide by"),
        ("reward.reward_manager.name=naive", "knows no overlong penalty"),
        ("reward.reward_manager.name=dpao", "dpao"),
        ("reward.custom_reward_function.name=score_it", "score_it"),
        ("reward.reward_kwargs.overlong_buffer_cfg.len=30000", "is not within a completion"),
    ],
)
def test_what_cannot_work_is_found(compose, override, message) -> None:
    problems = check.problems_of(compose("math", override))
    assert message in " ".join(problems), problems


ULYSSES = "actor_rollout_ref.{}.ulysses_sequence_parallel_size=2"
FLASH = "+actor_rollout_ref.model.override_config.attn_implementation={}"
HALF = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=11264"


@pytest.mark.parametrize("keys", [("actor",), ("actor.fsdp_config", "ref.fsdp_config")], ids=" ".join)
def test_two_gpus_that_share_a_sequence_hold_half_of_it_each(compose, keys) -> None:
    two = [ULYSSES.format(key) for key in keys]
    assert check.problems_of(compose("math", *two, HALF)) == []
    assert "must hold the longest sequence, 22528" in " ".join(check.problems_of(compose("math", HALF)))
    assert "silently wrong" in " ".join(check.problems_of(compose("math", *two, HALF, FLASH.format("sdpa"))))
    few = check.problems_of(compose("math", *two, "trainer.nnodes=5"))  # 40 GPUs, 512 completions an update
    assert "must divide by 20 data-parallel ranks" in " ".join(few)


def test_dgpo_that_is_switched_on_by_its_key_alone_is_said_with_its_defaults(compose) -> None:
    config = compose("math", "objective=dapo", "trainer.v1.trainer_mode=dgpo")
    assert check.problems_of(config) == []
    assert check.facts(config)["objective"] == "DGPO tau=0.5 kappa=1"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("none", "VERL_USE_EXTERNAL_PLUGINS=none leaves it out. Unset it, or name dgpo in it."),
        ("other", "VERL_USE_EXTERNAL_PLUGINS=other leaves it out. Unset it, or name dgpo in it."),
        (None, f"dgpo is not installed in the environment of {sys.executable}. Run: pip install 'dgpo[verl]'"),
    ],
)
def test_a_plugin_that_is_not_active_is_said_to_be(compose, monkeypatch, policy, message) -> None:
    from importlib import metadata

    from verl.trainer.ppo.v1 import trainer_base

    config = compose("math")
    without = {name: cls for name, cls in trainer_base.TRAINER_REGISTRY.items() if name != "dgpo"}
    monkeypatch.setattr(trainer_base, "TRAINER_REGISTRY", without)
    if policy is None:
        monkeypatch.setattr(metadata, "entry_points", lambda group: ())
    else:
        monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    (problem,) = check.problems_of(config)
    assert "dgpo's plugin for verl is not active: " in problem
    assert message in problem


@pytest.mark.parametrize("objective", ["dgpo", "dapo"])
def test_dynamic_sampling_is_what_the_trainer_builds(compose, objective) -> None:
    """verl's replay buffer filters groups in its synchronous mode alone, which it knows by the name of the mode."""
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    config = compose("math", "scale=7b", f"objective={objective}")
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    assert type(trainer.replay_buffer) is ReplayBuffer
    assert trainer.replay_buffer.filter_groups_metric == "acc"
    assert trainer.replay_buffer.train_batch_size == 512
    assert trainer.use_reference_policy == (objective == "dgpo")


def test_verls_dataset_reads_what_verl_data_writes(compose, tmp_path) -> None:
    from transformers import AutoTokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from dgpo.lab.cli.main import main

    words = []
    for name, problem in (("dapo-math-17k", "1 + 1"), ("aime24", "2 + 2"), ("aime25", "3 + 3")):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"problem,answer\n{problem},7\n")
        words += [f"--{name}", str(path)]
    assert main(["verl-data", str(tmp_path), *words]) == 0
    config = compose("math", "data.filter_overlong_prompts_workers=1", f"+data.cache_dir={tmp_path / 'cache'}")
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    held_out = RLHFDataset(config.data.val_files, tokenizer, config.data)
    assert [held_out[row]["data_source"] for row in range(len(held_out))] == ["aime24", "aime25"]
    (row,) = RLHFDataset(config.data.train_files, tokenizer, config.data)
    assert "\n\n1 + 1\n\n" in row["raw_prompt"][0]["content"]
    assert row["reward_model"]["ground_truth"] == "7"


@pytest.mark.parametrize(
    ("last", "length", "reward", "acc"),
    [
        ("Answer: 34", 100, 1.0, True),
        ("Answer: 35", 100, 0.0, False),
        ("\\boxed{34}", 100, 1.0, True),
        ("34", 100, 0.0, False),  # no answer was given, a number is not one
        ("Answer: 34", 8192 - 1638, 1.0, True),
        ("Answer: 34", 8192 - 819, 0.75, True),  # half of the buffer, half of a factor of 0.5
        ("Answer: 34", 8192, 0.5, True),
        ("Answer: 35", 8192, -0.5, False),
    ],
)
def test_reward_and_overlong_penalty_through_verls_manager(compose, last, length, reward, acc) -> None:
    found = scored(compose, last, length)
    assert float(found["reward_score"]) == pytest.approx(reward)
    # What dynamic sampling and the evaluation go by knows no penalty.
    assert found["reward_extra_info"]["acc"] is acc


def test_the_advantages_are_those_of_dapos_rewards(compose) -> None:
    """DAPO: 1 or -1, and a penalty of up to 1. Ours is half of that plus a half, which no advantage sees."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    group = [("Answer: 34", 100, 1.0), ("Answer: 34", 8192 - 819, 0.5), ("Answer: 34", 8192, 0.0)]
    group += [("Answer: 35", 100, -1.0), ("Answer: 35", 8192, -2.0)]
    ours = [float(scored(compose, last, length)["reward_score"]) for last, length, _ in group]

    def advantages(rewards):
        return get_adv_estimator_fn("grpo")(
            token_level_rewards=torch.tensor(rewards)[:, None],
            response_mask=torch.ones(len(rewards), 1),
            index=np.zeros(len(rewards), dtype=int),
        )[0]

    torch.testing.assert_close(advantages(ours), advantages([dapo for *_, dapo in group]), atol=1e-5, rtol=1e-5)


def scored(compose, last: str, length: int) -> dict:
    """What verl's reward manager makes of a completion of so many tokens that ends like this; 34 is right."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    from verl import DataProto
    from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls

    vocabulary = {"<pad>": 0, "so\n": 1, last: 2}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", clean_up_tokenization_spaces=False)
    ids = torch.tensor([[1] * (length - 1) + [2]])
    row = {
        "data_source": "math_dapo",
        "reward_model": {"ground_truth": "34", "style": "rule"},
        "extra_info": {"index": "0", "split": "train", "problem": ""},
    }
    data = DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
        non_tensors={name: np.array([value], dtype=object) for name, value in row.items()},
    )
    config = compose("math", "scale=7b")

    async def score() -> dict:
        manager = resolve_reward_manager_cls(config)(config, tokenizer, get_custom_reward_fn(config))
        return await manager.run_single(data)

    return asyncio.run(score())


@pytest.mark.parametrize(
    ("recipe", "environment", "message"),
    [
        ("maths", {}, "name a recipe: math quick; got 'maths'"),
        ("math", {}, "set DGPO_DATA"),
        ("math", {"DGPO_DATA": "."}, "has no dapo-math-17k.parquet; make it with: dgpo verl-data"),
        ("math", {"PYTHON": "no-python"}, "set PYTHON"),
    ],
)
def test_run_sh_says_what_it_needs(tmp_path, recipe, environment, message) -> None:
    found = subprocess.run(
        [RECIPES / "run.sh", recipe],
        env=shell(**environment),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert message in found.stderr


@pytest.mark.slow
def test_the_quick_recipe_runs(tmp_path) -> None:
    """Two rollouts of two updates through Ray: nothing to redistribute at first, the policy's own distance after it."""
    few = ("trainer.total_training_steps=2", "trainer.val_before_train=False", "trainer.test_freq=-1")
    found = subprocess.run(
        [RECIPES / "run.sh", "quick", *few],
        env=shell(DGPO_DATA=str(tmp_path / "data"), HF_HUB_OFFLINE="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert found.returncode == 0, found.stderr[-5000:]
    steps = dict(re.findall(r"step:(\d+) - (.*)", found.stdout))
    distance = {
        step: float(re.search(r"dgpo/hellinger_sq/max:(?:np\.\w+\()?([\d.e+-]+)", line)[1])
        for step, line in steps.items()
    }
    assert distance["1"] == 0.0
    assert distance["2"] > 0.0
    assert "response_length/max:30.0" in steps["1"]  # four forks: no completion is cut off
