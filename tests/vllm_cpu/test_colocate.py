"""`DGPOTrainer` with vLLM in its process: credit, loss and what is sampled from, against plain recomputation."""

import os
from unittest.mock import patch

import pytest
import torch
import trl.generation.vllm_generation as generation
from recomputed import Spy, is_synced, plain_loss
from support import lora, make_trainer, parameters
from transformers import AutoModelForCausalLM


class Replay(Spy):
    """Takes the completions of another run in place of its own."""

    def _generate_single_turn(self, prompt_ids, *args, **options):
        return self.replayed.pop(0), None


@pytest.fixture(scope="module")
def engine():
    """vLLM's engine, made once: that takes half a minute. Each trainer pushes its weights before it samples.

    TRL sets the variables of a launcher for it, which must not reach the processes of other tests.
    """
    made, real = [], generation.LLM

    def cached(**options):
        if not made:
            made.append(real(**options, enforce_eager=True, dtype="float32"))
        return made[0]

    generation.LLM = cached
    with patch.dict(os.environ):
        yield
    generation.LLM = real


@pytest.fixture
def train(engine, checkpoint, tmp_path):
    def trained(kind=Spy, resume=None, **options):
        vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 48}
        trainer = make_trainer(kind, checkpoint, tmp_path / "run", **vllm, **{"max_steps": 3, **options})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


@pytest.mark.parametrize(
    ("mode", "policy"),
    [("token_truncate", "old"), ("token_mask", "current"), ("sequence_truncate", "current"), ("sequence_mask", "old")],
)
def test_the_loss_is_that_of_the_equations(train, checkpoint, mode, policy):
    updates = 2 if policy == "old" else 1
    # An odd temperature, and a bound within the ratios, so that every mode does something.
    options = {"vllm_importance_sampling_mode": mode, "credit_policy": policy, "num_iterations": updates}
    trainer = train(**options, max_steps=4, tau=0.02, temperature=0.9, vllm_importance_sampling_clip_max=1.0)
    assert len(trainer.seen) == 4
    distances = []
    for number, step in enumerate(trainer.seen):
        credited = trainer.seen[number - number % updates]  # the policy that sampled
        expected, distance = plain_loss(trainer, checkpoint, step, credited)
        assert step["loss"] == pytest.approx(expected, abs=2e-6), number
        distances.append(distance)
    assert distances[-1] > 1e-3
    assert is_synced(trainer)


def test_with_the_same_completions_vllm_changes_nothing(train, checkpoint, tmp_path):
    trained = train(vllm_importance_sampling_correction=False, tau=0.02)
    replay = make_trainer(Replay, checkpoint, tmp_path / "replay", max_steps=3, tau=0.02)
    replay.replayed = [list(batch) for batch in trained.completions]
    replay.train()
    for one, other in zip(trained.seen, replay.seen, strict=True):
        # TRL shuffles them, by a random state that vLLM has drawn from.
        assert sorted(one["inputs"]["completion_ids"].tolist()) == sorted(other["inputs"]["completion_ids"].tolist())
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-7)
    torch.testing.assert_close(parameters(trained), parameters(replay), rtol=0, atol=1e-6)


def test_a_resumed_run_ends_with_the_same_parameters(train, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(**options)
    resumed = train(**options, resume=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.completions == whole.completions[2:]
    assert torch.equal(parameters(resumed), parameters(whole))


def test_an_adapter_is_pushed_merged_and_the_reference_stays(train, checkpoint):
    trainer = train(peft_config=lora(), learning_rate=0.5, max_steps=6)
    assert is_synced(trainer)
    assert trainer.recorder.steps[-1]["dgpo/hellinger_sq/max"] > 1e-6
    before = dict(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).named_parameters())
    for name, parameter in trainer.model.named_parameters():
        if ".base_layer." in name:  # merged, unmerged and put back six times
            first = before[name.replace("base_model.model.", "").replace(".base_layer", "")]
            assert torch.equal(parameter, first)
