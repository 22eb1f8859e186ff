"""The log of `DGPOTrainer` holds whole groups with what belongs to them: gold answer, rewards, why each one ended."""

import pytest
from support import WORDS, FixedCompletions, FixedDGPOTrainer, answered, make_trainer, spread_reward

from dgpo import DGPOTrainer, credit_rule
from dgpo.credit_log import read_credit_log

SECOND_EOS = WORDS.index("t")


def train(checkpoint, folder, trainer_class=FixedDGPOTrainer, dataset=None, **options):
    defaults = {"credit_log_steps": 1, "max_steps": 1, "perturb": 0.3, "tau": 0.02}
    trainer = make_trainer(trainer_class, checkpoint, folder, dataset=dataset or answered(), **{**defaults, **options})
    trainer.train()
    return read_credit_log(folder)


@pytest.mark.parametrize("policy", ["current", "old"])
@pytest.mark.parametrize("batch", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}])
def test_each_completion_has_the_answer_and_the_group_of_its_prompt(checkpoint, tmp_path, policy, batch):
    options = {"num_iterations": 2} if policy == "old" else {}
    (step,) = train(checkpoint, tmp_path, credit_policy=policy, **batch, **options)
    assert len(step.completions) == 8
    assert [completion.answer for completion in step.completions] == [
        completion.prompt.split()[0] for completion in step.completions
    ]
    groups = [completion.group for completion in step.completions]
    assert groups == [groups[0]] * 4 + [groups[4]] * 4
    assert groups[0] != groups[4]
    assert {completion.ended for completion in step.completions} == {"eos"}


def test_groups_with_an_advantage_come_first_and_others_are_left_out(checkpoint, tmp_path):
    calls = []

    def reward_of_the_last_prompt(prompts, completion_ids, **columns):
        calls.append(prompts)
        return [float(prompt == prompts[-1]) * sum(ids) for prompt, ids in zip(prompts, completion_ids, strict=True)]

    options = {"per_device_train_batch_size": 16, "credit_log_completions": 4, "reward": reward_of_the_last_prompt}
    for policy, more in (("current", {}), ("old", {"num_iterations": 2})):
        (step,) = train(checkpoint, tmp_path / policy, credit_policy=policy, **options, **more)
        assert [completion.prompt for completion in step.completions] == [calls[-1][-1]] * 4
        assert any(completion.advantage for completion in step.completions)
        # The last of four groups is among those that are looked at before their rewards are known.
        assert all(completion.alternatives for completion in step.completions)


class SecondEnd(FixedCompletions, DGPOTrainer):
    """Ends half of its completions with another end-of-sequence token, and cuts every fourth one off."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        completions, extra = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        kept = [[token for token in ids[:-1] if token != SECOND_EOS] for ids in completions]
        ends = ([1], [SECOND_EOS], [1], [])
        return [ids + ends[row % 4] for row, ids in enumerate(kept)], extra


def test_any_end_of_sequence_token_ends_a_completion(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.generation_config.eos_token_id = [1, SECOND_EOS]
    (step,) = train(checkpoint, tmp_path, SecondEnd, model=model)
    ends = {"eos": {" <eos>", " t"}, "length": set()}
    for completion in step.completions:
        assert completion.ended == ("eos" if completion.tokens[-1] in ends["eos"] else "length")
    assert [completion.ended for completion in step.completions].count("length") == 2


def test_a_named_column_is_the_answer(checkpoint, tmp_path):
    (step,) = train(checkpoint, tmp_path / "named", dataset=answered(column="target"), credit_log_answer="target")
    assert all(completion.answer == completion.prompt.split()[0] for completion in step.completions)
    (step,) = train(checkpoint, tmp_path / "unnamed", dataset=answered(column="target"))
    assert {completion.answer for completion in step.completions} == {None}


@credit_rule(reads=())
def noted(stats):
    return stats.completion_mask.float(), {"position": stats.completion_mask.cumsum(-1)}


def test_columns_of_a_rule_are_logged(checkpoint, tmp_path):
    rule = {"credit_rule": f"{__file__}:noted", "tau": None}
    (step,) = train(checkpoint, tmp_path, **rule)
    for completion in step.completions:
        assert completion.columns == {"position": [float(n) for n in range(1, 1 + len(completion.ids))]}
        assert completion.rewards["spread_reward"] == pytest.approx(spread_reward([completion.ids])[0], rel=1e-4)


def test_a_later_update_has_the_log_ratio_to_the_policy_that_sampled(checkpoint, tmp_path):
    first, second = train(
        checkpoint, tmp_path, num_iterations=2, max_steps=2, credit_policy="current", learning_rate=1.0
    )
    ratios = [
        max(abs(x) for completion in step.completions for x in completion.columns["sampling_log_ratio"])
        for step in (first, second)
    ]
    assert ratios[0] < 1e-5 < 1e-3 < ratios[1]
