"""The reference runs beside the rewards: once a rollout, with the same credit, and the parameters of a run without."""

import threading

import pytest
import torch
from support import FixedDGPOTrainer, lora, make_checkpoint, make_trainer, mostly_dead_reward, parameters, spread_reward
from transformers import TrainerCallback

from dgpo.engines.trl import overlap, reference_states
from dgpo.engines.trl.overlap import _sampled_ids

ROLLOUT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}


class Overlapping(FixedDGPOTrainer):
    """Keeps what the rewards waited for: they are only given when the reference runs, which another thread does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.passes = []
        for model in (self.model, self.ref_model):
            if model is not None:
                model.register_forward_pre_hook(lambda *_: self.passes.append(threading.current_thread().name))

    @property
    def ahead(self):
        return [name for name in self.passes if name.startswith("reference")]


@pytest.fixture
def train(checkpoint, tmp_path):
    def trained(*, resume=None, reward=spread_reward, folder="run", start=True, checkpoint=checkpoint, **options):
        options = {"perturb": 0.05, "tau": 0.05, **ROLLOUT, **options}
        trainer = make_trainer(Overlapping, checkpoint, tmp_path / folder, reward=reward, **options)
        if start:
            torch.manual_seed(0)
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


CASES = {
    "as it is": {},
    "lora": {"peft_config": lora()},
    "several iterations": {"num_iterations": 2, "max_steps": 4},
    "dead rows": {"reward": mostly_dead_reward},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 8},
    "sorted, several micro-batches a step": {"sort_by_length": True, "gradient_accumulation_steps": 4},
    "the log of all completions": {"reward": mostly_dead_reward, "credit_log_steps": 1},
    "kl": {"beta": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_credit_are_those_of_a_run_without(train, case):
    ours, plain = (train(overlap_reference=is_on, folder=str(is_on), **CASES[case]) for is_on in (True, False))
    assert plain.ahead == []
    assert len(ours.ahead) == ours.generation_calls * ours.args.steps_per_generation
    for step, (a, b) in enumerate(zip(ours.recorder.gradients, plain.recorder.gradients, strict=True)):
        assert (a - b).norm() <= 3e-6 * (step + 1) * b.norm(), f"gradients of update {step}"
    assert (parameters(ours) - parameters(plain)).norm() <= 1e-6 * parameters(plain).norm()
    for a, b in zip(ours.recorder.steps, plain.recorder.steps, strict=True):
        for name in (name for name in a if name.startswith("dgpo/")):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    assert max(step.get("dgpo/hellinger_sq/max", 0.0) for step in ours.recorder.steps) > 1e-6


def test_rewards_and_reference_run_at_the_same_time(train, monkeypatch):
    """Each waits for the other, so that one after the other would not end."""
    rewarding, running = threading.Event(), threading.Event()
    score = reference_states.reference_head

    def reference(*args):
        running.set()
        assert rewarding.wait(60)
        return score(*args)

    def reward(**columns):
        rewarding.set()
        assert running.wait(60)
        return spread_reward(**columns)

    monkeypatch.setattr(overlap, "reference_head", reference)
    train(overlap_reference=True, reward=reward, max_steps=1)
    assert running.is_set()


def test_a_run_that_is_resumed_within_a_rollout_ends_with_the_same_bits(train, tmp_path):
    options = {"overlap_reference": True, "steps_per_generation": 4, "gradient_accumulation_steps": 1, "max_steps": 6}
    options |= {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.5}
    whole = train(**options)
    resumed = train(**options, folder="resumed", start=False)
    resumed.generation_calls = 1  # the first rollout comes from the checkpoint
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert len(resumed.ahead) == 4  # of the second one
    assert torch.equal(parameters(resumed), parameters(whole))


class EvaluateOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step == 1


def test_an_evaluation_within_a_rollout_changes_nothing(train):
    options = {"overlap_reference": True, "steps_per_generation": 4, "gradient_accumulation_steps": 1, "max_steps": 3}
    plain = train(**options)
    ours = train(**options, folder="evaluated", start=False, callbacks=(EvaluateOnce(),))
    ours.eval_dataset = ours.train_dataset.select(range(8))
    torch.manual_seed(0)
    ours.train()
    assert len(ours.ahead) == len(plain.ahead)
    assert torch.equal(parameters(ours), parameters(plain))


def test_an_error_of_a_reward_ends_the_run_and_the_thread(train):
    def fail(**columns):
        raise OverflowError("the judge is gone")

    with pytest.raises(Exception, match="the judge is gone"):
        train(overlap_reference=True, reward=fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reference")]


OFF = {
    "credit_policy='old'": {"credit_policy": "old", "num_iterations": 2},
    "a rule that compares nothing": {"credit_rule": "even", "tau": None},
    "sync_ref_model": {"sync_ref_model": True},
}


@pytest.mark.parametrize("reason", OFF)
def test_where_it_cannot_run_it_is_off_and_says_so(train, caplog, reason):
    caplog.set_level("INFO")
    trainer = train(overlap_reference=True, max_steps=1, **OFF[reason])
    assert trainer.ahead == []
    assert (
        len([record for record in caplog.records if f"overlap_reference is off beside {reason}" in record.message]) == 1
    )


def test_dropout_of_a_base_model_switches_it_off(train, tmp_path, caplog):
    caplog.set_level("INFO")
    checkpoint = make_checkpoint(tmp_path / "dropout", attention_dropout=0.3)
    assert train(
        checkpoint=checkpoint, start=False, overlap_reference=True
    )._overlaps  # its reference is a model of its own
    shared = train(checkpoint=checkpoint, start=False, overlap_reference=True, peft_config=lora())
    assert not shared._overlaps
    assert "dropout in the reference" in caplog.text
    adapter = lora()
    adapter.lora_dropout = 0.5
    assert train(start=False, overlap_reference=True, peft_config=adapter)._overlaps


def test_sampled_ids_are_found_again_in_shuffled_micro_batches():
    one = {"prompt_ids": [[0, 5], [6, 7]], "prompt_mask": [[0, 1], [1, 1]], "completion_ids": [[1, 2, 0], [3, 3, 3]]}
    other = {"prompt_ids": [[0, 8]], "prompt_mask": [[0, 1]], "completion_ids": [[4, 0, 0]]}
    batches = [{name: torch.tensor(rows) for name, rows in batch.items()} for batch in (one, other)]
    for batch, rows in zip(batches, ([[2, 2], [0, 3]], [[1, 1]]), strict=True):
        batch[overlap.ROW] = torch.tensor(rows)
    assert _sampled_ids(batches) == ([[6, 7], [8], [5]], [[3, 3, 3], [4], [1, 2]])
