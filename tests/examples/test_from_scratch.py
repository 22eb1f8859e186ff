"""`examples/dgpo_from_scratch.py` learns its task, and its update is that of `DGPOTrainer`."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from support import FixedDGPOTrainer, make_checkpoint, make_trainer, parameters, spread_reward
from transformers import AutoModelForCausalLM

from dgpo.lab.tasks.forks import warm_up_model
from examples import dgpo_from_scratch
from examples.dgpo_from_scratch import Rollout, credit_weights, roll_out, train, update

SETTINGS = {"tau": 0.02, "kappa": 1.0}
GENERATIONS = 4


class RecordedTrainer(FixedDGPOTrainer):
    """Holds each rollout as it was before TRL shuffled it."""

    def _generate_and_score_completions(self, inputs):
        outputs = super()._generate_and_score_completions(inputs)
        ids, mask = outputs["completion_ids"], outputs["completion_mask"].bool()
        rewards = torch.tensor(spread_reward([row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]))
        self.rollouts = [
            *getattr(self, "rollouts", []),
            Rollout(outputs["prompt_ids"], ids, mask, rewards, GENERATIONS),
        ]
        return outputs


@pytest.mark.parametrize("num_updates", [1, 2])
def test_an_update_is_that_of_the_trainer(num_updates, tmp_path):
    torch.set_num_threads(1)
    checkpoint = make_checkpoint(tmp_path / "model")
    trainer = make_trainer(
        RecordedTrainer,
        checkpoint,
        tmp_path,
        perturb=0.05,  # a policy that has left its reference
        max_steps=num_updates,
        num_iterations=num_updates,
        max_grad_norm=1.0,
        **SETTINGS,
    )
    trainer.train_dataset = Dataset.from_dict({"prompt": ["a b c d", "e f g h", "i j k l", "m n o p"] * 4})
    policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    policy.load_state_dict(trainer.model.state_dict())
    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = parameters(trainer)
    trainer.train()

    (rollout,) = trainer.rollouts
    assert _largest_weight(policy, reference, rollout) > 1.2  # weights that could be wrong
    update(
        policy, reference, torch.optim.SGD(policy.parameters(), lr=0.05), rollout, num_updates=num_updates, **SETTINGS
    )
    ours = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    assert (ours - before).abs().max() > 1e-3
    torch.testing.assert_close(ours, parameters(trainer), rtol=0, atol=1e-6)


@torch.no_grad()
def _largest_weight(policy, reference, rollout):
    both = [dgpo_from_scratch.completion_logits(model, rollout) for model in (policy, reference)]
    return credit_weights(*both, rollout.mask, **SETTINGS).max()


def test_a_rollout_ends_each_completion_at_its_eos(monkeypatch, tmp_path):
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path))
    folder = warm_up_model(steps=30, progress=False)
    tokenizer = dgpo_from_scratch.AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    rollout = roll_out(policy, tokenizer, [{"prompt": "7 3 | 2 9 | 5 6 | 1 8 ?", "answer": "7 9 6 8"}], 8, length=40)
    for ids, mask in zip(rollout.completion_ids.tolist(), rollout.mask.tolist(), strict=True):
        length = sum(mask)
        assert mask == [True] * length + [False] * (40 - length)
        assert tokenizer.eos_token_id not in ids[: length - 1]
        assert set(ids[length:]) <= {tokenizer.pad_token_id}
        assert length == 40 or ids[length - 1] == tokenizer.eos_token_id


def test_a_few_steps_run_and_report(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path))
    monkeypatch.setattr(dgpo_from_scratch, "warm_up_model", lambda: warm_up_model(steps=20, progress=False))
    assert 0 <= train(10, num_prompts=2, num_generations=2) <= 1
    output = capsys.readouterr().out
    assert "before: " in output
    assert "step 10: mean reward " in output
    assert "after: " in output


@pytest.mark.slow
def test_the_whole_run_gets_four_fifths_of_the_held_out_prompts_right(warmed_up):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train(80) >= 0.8
    finally:
        torch.set_num_threads(threads)


def test_it_is_short_and_does_not_use_the_library_for_the_algorithm():
    source = Path(dgpo_from_scratch.__file__).read_text()
    assert source.count("\n") <= 150
    assert "dgpo.core" not in source.split('"""', 2)[2]
