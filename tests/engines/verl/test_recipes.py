"""recipes/verl: each run composes and is valid; the objectives differ in what they are about and in nothing else."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from support import HERE, RECIPES, recipe_check, shell

from dgpo.lab.evaluation.verl_data import write_own_data

check = recipe_check()

RULES = HERE / "credit_rules.py"
DGPO_KEYS = {
    *("algorithm.dgpo.rule", "algorithm.dgpo.tau", "algorithm.dgpo.kappa", "algorithm.dgpo.credit_log_steps"),
    *("trainer.v1.trainer_mode", "trainer.experiment_name"),
}


def flat(config, prefix="") -> dict:
    """Every leaf by its dotted name, references as they are written."""
    if not isinstance(config, dict):
        return {prefix[:-1]: config}
    return {name: leaf for key, value in config.items() for name, leaf in flat(value, f"{prefix}{key}.").items()}


def differences(one, other) -> set:
    one, other = (flat(OmegaConf.to_container(config)) for config in (one, other))
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


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
def test_what_cannot_work_is_a_problem(compose, override, message) -> None:
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


def test_eight_gpus_share_the_model_under_megatron(compose) -> None:
    config = compose("math", "strategy=megatron")
    engine, ref = (config.actor_rollout_ref[role].megatron for role in ("actor", "ref"))
    assert (engine.tensor_model_parallel_size, ref.tensor_model_parallel_size, ref.param_offload) == (8, 8, True)
    few = check.problems_of(compose("math", "strategy=megatron", "trainer.nnodes=5"))  # 512 completions an update
    assert "must divide by 5 data-parallel ranks" in " ".join(few)
    key = "actor_rollout_ref.actor.megatron"
    three = check.problems_of(compose("math", "strategy=megatron", f"{key}.tensor_model_parallel_size=3"))
    assert "128 GPUs must divide by the 3 that share a model" in " ".join(three)
    context = check.problems_of(compose("math", "strategy=megatron", f"{key}.context_parallel_size=2"))
    assert "context_parallel_size=2" in " ".join(context)


@pytest.mark.parametrize(
    ("overrides", "objective"),
    [
        (["objective=dapo", "trainer.v1.trainer_mode=dgpo"], "DGPO, dgpo(tau=0.5, kappa=1.0)"),
        (["algorithm.dgpo={rule:even,tau:null,kappa:null}"], "DGPO, even()"),
        ([f"algorithm.dgpo={{rule:'{RULES}:signed_share',tau:null,kappa:null}}"], f"DGPO, {RULES}:signed_share()"),
    ],
    ids=["the key alone", "even", "a file"],
)
def test_the_rule_is_named_with_its_options(compose, overrides, objective) -> None:
    config = compose("math", *overrides)
    assert check.problems_of(config) == []
    assert check.facts(config)["objective"] == objective


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("none", "VERL_USE_EXTERNAL_PLUGINS=none leaves it out. Unset it, or name dgpo in it."),
        ("other", "VERL_USE_EXTERNAL_PLUGINS=other leaves it out. Unset it, or name dgpo in it."),
        (None, f"dgpo is not installed in the environment of {sys.executable}. Run: pip install 'dgpo[verl]'"),
    ],
)
def test_a_plugin_that_is_not_active_is_a_problem(compose, monkeypatch, policy, message) -> None:
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


EVEN = ("algorithm.dgpo.rule=even", "algorithm.dgpo.tau=null", "algorithm.dgpo.kappa=null")


@pytest.mark.parametrize(
    ("overrides", "has_reference"),
    [
        (["objective=dgpo"], True),
        (["objective=dapo"], False),
        (EVEN, False),
        ([*EVEN, "actor_rollout_ref.actor.use_kl_loss=True"], True),
        ([*EVEN, "algorithm.use_kl_in_reward=True"], True),
    ],
    ids=["dgpo", "dapo", "even", "even with a KL loss", "even with KL in the reward"],
)
def test_dynamic_sampling_and_reference_are_what_the_trainer_builds(compose, overrides, has_reference) -> None:
    """verl's replay buffer filters groups in its synchronous mode alone, which it knows by the name of the mode."""
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    config = compose("math", "scale=7b", *overrides)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    assert type(trainer.replay_buffer) is ReplayBuffer
    assert trainer.replay_buffer.filter_groups_metric == "acc"
    assert trainer.replay_buffer.train_batch_size == 512
    assert trainer.use_reference_policy == has_reference


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
    done = subprocess.run(
        [RECIPES / "run.sh", recipe],
        env=shell(**environment),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr


OWN_REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **options):
    right = solution_str.strip() == ground_truth
    return {"score": float(right), "acc": right}
"""


def test_run_sh_takes_data_and_a_reward_of_ones_own(tmp_path) -> None:
    """Everything up to verl's start: the files are chosen, the run is checked, and what would start is printed."""
    rows = "".join(f'{{"question": "What is {i} + 1?", "answer": "{i + 1}"}}\n' for i in range(30))
    (tmp_path / "mine.jsonl").write_text(rows)
    (tmp_path / "my_reward.py").write_text(OWN_REWARD)
    write_own_data(tmp_path / "data", str(tmp_path / "mine.jsonl"), plain=True)
    python = tmp_path / "python"
    start = 'if [ "$1" = -m ]; then shift; echo "$@"; else exec'
    python.write_text(f'#!/bin/sh\n{start} {sys.executable} "$@"; fi\n')
    python.chmod(0o755)
    reward = "reward.custom_reward_function"
    words = (f"{reward}.path={tmp_path / 'my_reward.py'}", f"{reward}.name=compute_score", "trainer.save_freq=9")
    done = subprocess.run(
        [RECIPES / "run.sh", "math", "scale=7b", *words],
        env=shell(DGPO_DATA="data", DGPO_MODEL="Qwen/Qwen2.5-7B", PYTHON=str(python)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    started = done.stdout.splitlines()[-1].split()
    assert started[0] == "verl.trainer.main_ppo"
    assert f"data.train_files={tmp_path / 'data' / 'train.parquet'}" in started
    assert f"data.val_files={tmp_path / 'data' / 'val.parquet'}" in started
    assert set(words) <= set(started)
