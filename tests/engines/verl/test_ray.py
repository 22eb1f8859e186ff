"""Whole runs of verl through Ray, TransferQueue, agent loop and weight sync, on the CPU.

All of them are in this file, which one process of pytest runs: two clusters of Ray at once would fill a small machine.
They share one node; only the quick recipe starts its own, as a user's does. Two runs: one of three steps that saves a
checkpoint, and one that resumes from it, asynchronous and with a credit rule from a file, until its worker is killed.
A run takes a minute or more before its first step, so that the first has many things at once: dynamic sampling, KL in
loss and reward, packed micro-batches, and rollouts of 12 completions for updates of 8, which verl fills up.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import HERE, RECIPES, environment, recipe_module, shell

from dgpo.credit_log import read_credit_log
from dgpo.lab.runs.reader import read_run

# Generous: each of about eight processes needs 15 seconds of processor time to import verl. None of them is reached
# unless something hangs.
PATIENCE = 1500
STEPS, SAVED = 3, 2
COMPLETIONS = 12  # of a rollout: 3 prompts x 4
RULE = f"{HERE.parents[2] / 'examples' / 'verl' / 'my_rules.py'}:capped"

ROLLOUTS = ("data.train_batch_size=3", "actor_rollout_ref.actor.ppo_mini_batch_size=2", "trainer.total_epochs=10")
AT_ONCE = (
    *("algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=varies"),
    *("actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.kl_loss_coef=0.1"),
    "algorithm.use_kl_in_reward=True",
    *("actor_rollout_ref.actor.use_dynamic_bsz=True", "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"),
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=256",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=256",
    "actor_rollout_ref.actor.ppo_epochs=2",
)


def metrics_of(path: Path) -> dict[int, dict]:
    """Read what verl's file logger wrote, by step."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["data"] for line in lines}


class Run:
    """A run in a process of its own; what it printed, measured and noted."""

    def __init__(self, node: dict[str, str], folder: Path, name: str, model: str, *overrides: str):
        self.folder, self.output = folder, folder / f"{name}.log"
        self.notes_path, self.metrics_path = folder / f"{name}-notes.jsonl", folder / f"{name}-metrics.jsonl"
        # The workers have the environment of the node, and what the run adds to it.
        paths = {"DGPO_TEST_NOTES": self.notes_path, "VERL_FILE_LOGGER_PATH": self.metrics_path}
        own = ",".join(f"{name}:'{path}'" for name, path in paths.items())
        place = f"trainer.default_local_dir={folder / 'run'}", f"+ray_kwargs.ray_init.runtime_env.env_vars={{{own}}}"
        command = [sys.executable, str(HERE / "run_verl.py"), model, *place, *overrides]
        with self.output.open("w") as out:
            # A group of its own, so that whatever is left can be ended with it.
            self.process = subprocess.Popen(
                command, env=environment(**node), cwd=folder, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def notes(self) -> list[dict]:
        lines = self.notes_path.read_text().splitlines() if self.notes_path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def metrics(self) -> dict[int, dict]:
        return metrics_of(self.metrics_path)

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def wait_until(self, condition) -> None:
        """Wait until a condition holds; fail at once if the run ends before."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < end, self.tail()
            time.sleep(0.5)

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-6000:]

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def node():
    """How to connect to the node of all runs. A worker claims a "GPU" and many CPUs; both are only labels here."""
    options = ("--num-cpus=32", "--num-gpus=1", "--include-dashboard=False")
    with recipe_module("ray_node").ray_node(*options, env=environment()) as access:
        yield access


@pytest.fixture(scope="module")
def run(node, folder, model):
    started = Run(
        node,
        folder,
        "first",
        model,
        *ROLLOUTS,
        *AT_ONCE,
        *(f"trainer.total_training_steps={STEPS}", f"trainer.save_freq={SAVED}"),
        *("+algorithm.dgpo.tau=0.001", "+algorithm.dgpo.credit_log_steps=1"),
        f"reward.custom_reward_function.path={HERE / 'verl_reward.py'}",
    )
    try:
        assert started.wait() == 0, started.tail()
        yield started
    finally:
        started.end()


def test_the_distance_is_exactly_0_at_step_1_and_positive_later(run):
    distances = [run.metrics[step]["dgpo/hellinger_sq/max"] for step in range(1, STEPS + 1)]
    assert distances[0] == 0.0
    assert min(distances[1:]) > 0
    assert run.metrics[1]["dgpo/weight/max"] == 1.0
    assert run.metrics[STEPS]["dgpo/weight/max"] > 1.0


def test_the_metrics_of_trl_are_there(run):
    names = {
        "hellinger_sq/mean",
        "hellinger_sq/p99",
        "hellinger_sq/max",
        "entropy_gate/mean",
        "weight/std",
        "weight/max",
    }
    for step in range(1, STEPS + 1):
        assert {f"dgpo/{name}" for name in (*names, "effective_share", "kl")} <= run.metrics[step].keys()


def test_the_rollout_has_the_actors_weights_after_each_sync(run):
    sent = {note["step"]: note["checksum"] for note in run.notes if note["what"] == "actor"}
    received = {note["step"]: note for note in run.notes if note["what"] == "rollout"}
    assert sorted(sent) == list(range(STEPS + 1))
    assert {step: note["checksum"] for step, note in received.items()} == sent
    assert all(not note["missing"] and not note["unexpected"] for note in received.values())
    assert len(set(sent.values())) == STEPS + 1  # each step changed them


def test_the_credit_log_is_one_that_the_report_reads(run):
    steps = read_credit_log(run.folder / "run")
    assert [step.step for step in steps] == [1, 2, 3]
    assert steps[0].header["engine"] == "verl"
    assert steps[0].header["rule"] == "dgpo"
    assert steps[0].header["options"] == {"tau": 0.001, "kappa": 1.0}
    first, last = steps[0].completions, steps[-1].completions
    assert len(first) == 8
    assert {weight for completion in first for weight in completion.w} == {1.0}
    for completion in last:
        weights = [weight for weight in completion.w if weight is not None]
        assert sum(weights) / len(weights) == pytest.approx(1.0, abs=1e-3)
        assert completion.reward is not None
        one, other = re.search(r"what is (\d) \+ (\d)", completion.prompt).groups()
        assert completion.answer == str(int(one) + int(other))
        assert len(completion.rewards) > 1  # the reward function's own numbers beside the score
        assert completion.ended in ("eos", "length")
    assert all(len({one.prompt for one in last if one.group == found.group}) == 1 for found in last)
    assert read_run(run.folder / "run").config["credit_options.tau"] == 0.001


def test_a_rollout_of_several_updates_moves_the_policy_within_it(run):
    """verl's loss compares with the policy that sampled: of one update a rollout that would be 0."""
    first = run.metrics[1]
    assert abs(first["actor/ppo_kl"]) > 0
    assert first["actor/kl_loss"] > 0  # the reference's log-probabilities have come to the loss
    assert first["dgpo/hellinger_sq/max"] == 0.0  # and the credit is of the policy that sampled


def test_groups_without_spread_are_replaced_before_the_credit(run):
    evicted = [run.metrics[step].get("training/filter_groups/evicted_samples", 0) for step in range(1, STEPS + 1)]
    assert sum(evicted) > 0  # half of the prompts are such
    for step in read_credit_log(run.folder / "run"):
        for completion in step.completions:
            one, other = re.search(r"what is (\d) \+ (\d)", completion.prompt).groups()
            assert (int(one) + int(other)) % 2 == 1


def test_padding_rows_are_in_no_figure(run):
    """12 completions and 4 rows of padding, which have no token to train."""
    for step in read_credit_log(run.folder / "run"):
        assert step.header["out_of"] == COMPLETIONS
        assert all(any(weight is not None for weight in completion.w) for completion in step.completions)
    assert run.metrics[1]["dgpo/effective_share"] == 1.0


def test_dgpos_reward_was_read_from_verls_configuration(run):
    scores = [completion.reward for step in read_credit_log(run.folder / "run") for completion in step.completions]
    assert len(set(scores)) > 1


def test_the_death_of_an_actor_is_reported_as_one_however_late(node, tmp_path):
    """On a busy machine it takes longer than the second that Ray waits; the next test reads the report."""
    noted = tmp_path / "error.txt"
    command = [sys.executable, str(HERE / "delayed_actor_death.py"), str(noted)]
    done = subprocess.run(command, env=environment(**node), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert noted.read_text() == "ActorDiedError"


def test_a_checkpoint_resumes_and_a_killed_worker_ends_the_run(node, run, model):
    """The resumed run starts from the saved weights; its worker is killed, and it must end by itself, with the reason.

    It has another credit rule, from a file, goes on sampling while it learns, and leaves out what has no advantage.
    """
    saved = next(note["checksum"] for note in run.notes if note["what"] == "actor" and note["step"] == SAVED)
    resumed = Run(
        node,
        run.folder,
        "second",
        model,
        *ROLLOUTS,
        *("trainer.resume_mode=resume_path", f"trainer.resume_from_path={run.folder / 'run' / f'global_step_{SAVED}'}"),
        *("trainer.total_training_steps=16", "+algorithm.dgpo.credit_log_steps=3"),
        "trainer.v1.trainer_mode=dgpo_colocate_async",
        *(f"+algorithm.dgpo.rule='{RULE}'", "+algorithm.dgpo.options.cap=1.5", "+algorithm.dgpo.tau=0.001"),
        *(
            "reward.custom_reward_function.path=pkg://dgpo.lab.rewards.math",
            "reward.custom_reward_function.name=compute_score",
        ),
    )
    try:
        resumed.wait_until(lambda: any(note["step"] == SAVED + 3 for note in resumed.notes))
        actor = [note for note in resumed.notes if note["what"] == "actor"]
        assert (actor[0]["step"], actor[0]["checksum"]) == (SAVED, saved)
        # Steps after the checkpoint are made again, and logged again.
        logged = read_credit_log(run.folder / "run")
        assert [step.step for step in logged][:3] == [1, 2, 3]
        assert logged[2].header["rule"] == RULE
        assert logged[2].header["options"] == {"tau": 0.001, "cap": 1.5}
        weights = [weight for completion in logged[2].completions for weight in completion.w if weight is not None]
        assert len(set(weights)) > 1
        due, other = (resumed.metrics[SAVED + step] for step in (1, 2))
        assert min(step["dgpo/hellinger_sq/max"] for step in (due, other)) > 0
        # Its rewards are nearly all equal. All completions of a step of the credit log are scored; else as few as fill
        # a micro-batch.
        assert due["dgpo/scored_share"] == 1.0
        assert 4 / COMPLETIONS <= other["dgpo/scored_share"] < 1.0
        assert other["training/off_policy/trajectory_staleness/max"] > 0  # sampled before the last update
        os.kill(actor[0]["pid"], signal.SIGKILL)
        assert resumed.wait() != 0
        assert "ActorDiedError" in resumed.output.read_text(errors="replace"), resumed.tail()
    finally:
        resumed.end()


@pytest.mark.slow
def test_the_quick_recipe_runs(tmp_path) -> None:
    """Two rollouts of two updates through Ray: nothing to redistribute at first, the policy's own distance after it."""
    few = ("trainer.total_training_steps=2", "trainer.val_before_train=False", "trainer.test_freq=-1")
    measured = tmp_path / "metrics.jsonl"
    done = subprocess.run(
        [RECIPES / "run.sh", "quick", *few, "trainer.logger=[console,file]"],
        env=shell(DGPO_DATA=str(tmp_path / "data"), HF_HUB_OFFLINE="1", VERL_FILE_LOGGER_PATH=str(measured)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert {"1", "2"} <= set(re.findall(r"step:(\d+) - ", done.stdout))  # what its user sees
    first, second = (metrics_of(measured)[step] for step in (1, 2))
    assert first["dgpo/hellinger_sq/max"] == 0.0
    assert second["dgpo/hellinger_sq/max"] > 0.0
    assert first["response_length/max"] == 30.0  # four forks: no completion is cut off
