"""`dgpo.watch` shows what a `GRPOTrainer` does and changes no bit of it."""

import json
import logging

import pytest
import torch
from peft import LoraConfig
from support import (
    WORDS,
    FixedDGPOTrainer,
    FixedGRPOTrainer,
    answered,
    lora,
    make_checkpoint,
    make_trainer,
    parameters,
    spread_reward,
)
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

import dgpo
from dgpo.credit_log import read_credit_log
from dgpo.errors import ConfigError
from dgpo.lab.runs.reader import read_run

HERE = __file__


def train(checkpoint, folder, *, watched=None, trainer_class=FixedGRPOTrainer, **options):
    trainer = make_trainer(trainer_class, checkpoint, folder, dataset=answered(), **options)
    if watched is not None:
        dgpo.watch(trainer, **watched)
    trainer.train()
    return trainer


CONFIGURATIONS = {
    "plain": {},
    "reference": {"beta": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "several updates": {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4},
    "LoRA": {"peft_config": LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "down_proj"])},
    "checkpointing": {"gradient_checkpointing": True, "beta": 0.1},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 6},
}


@pytest.mark.parametrize("case", [*CONFIGURATIONS, "named checkpoint"])
def test_no_bit_of_the_training_changes(tmp_path, case):
    """Completions are sampled, with Adam and dropout: a random number drawn or a result moved would show."""
    path = make_checkpoint(tmp_path / "model", attention_dropout=0.1)
    options = {"optim": "adamw_torch", "learning_rate": 3e-3, "max_steps": 4, "max_grad_norm": 1.0, "use_cpu": True}
    options |= CONFIGURATIONS.get(case, {})
    watched = {"every": 1, "completions": 8}
    if case == "named checkpoint":
        watched["reference"] = make_checkpoint(tmp_path / "other", seed=1)
    trainers = [
        train(path, tmp_path / name, trainer_class=GRPOTrainer, watched=given, **options)
        for name, given in (("without", None), ("with", watched))
    ]
    without, with_watch = trainers
    assert torch.equal(parameters(without), parameters(with_watch))
    logs = [[{k: v for k, v in entry.items() if "time" not in k} for entry in t.recorder.steps] for t in trainers]
    assert logs[0] == logs[1]
    steps = read_credit_log(tmp_path / "with")
    assert [step.step for step in steps] == [1, 2, 3, 4]
    has_reference = case in ("reference", "LoRA", "checkpointing", "named checkpoint")
    for completion in (completion for step in steps for completion in step.completions):
        assert any(x is not None for x in completion.d) == has_reference
        assert all(x is not None for x in completion.h)


def test_what_is_frozen_of_an_adapter_stays_frozen(checkpoint, tmp_path):
    """PEFT trains all of an adapter that is switched on again."""
    runs = []
    for watched in (False, True):
        trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path / str(watched), peft_config=lora())
        for name, parameter in trainer.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_B" in name)
        if watched:
            dgpo.watch(trainer, every=1)
        trainer.train()
        runs.append((trainer, parameters(trainer)))
    assert torch.equal(runs[0][1], runs[1][1])
    trained = [name for name, parameter in runs[1][0].model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_B" in name for name in trained)


def test_two_runs_with_other_random_numbers_do_differ(tmp_path):
    """The comparison above could not fail if nothing random were drawn."""
    path = make_checkpoint(tmp_path / "model", attention_dropout=0.1)
    runs = []
    for extra in (0, 1):
        trainer = make_trainer(GRPOTrainer, path, tmp_path / str(extra), max_steps=2)
        torch.rand(extra)
        trainer.train()
        runs.append(parameters(trainer))
    assert not torch.equal(*runs)


@pytest.mark.parametrize("case", ["reference", "named", "LoRA"])
def test_the_log_holds_the_statistics_of_policy_and_reference(checkpoint, tmp_path, case):
    """Against full logits of both models, as they were at the first step."""
    options = {"beta": 0.1} if case == "reference" else {}
    watched = {"every": 1}
    reference = AutoModelForCausalLM.from_pretrained(checkpoint)
    if case == "named":
        other = make_checkpoint(tmp_path / "other", seed=5)
        watched["reference"], reference = other, AutoModelForCausalLM.from_pretrained(other)
    if case == "LoRA":
        options["peft_config"] = lora()
    trainer = make_trainer(
        FixedGRPOTrainer, checkpoint, tmp_path / "run", perturb=0.3, max_steps=1, temperature=0.7, **options
    )
    if case == "LoRA":
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    dgpo.watch(trainer, **watched)
    policy = trainer.model

    def log_probs(model, ids, length):
        with torch.no_grad():
            return (model(ids).logits[0, -length - 1 : -1] / 0.7).log_softmax(-1)

    seen = []

    def look(rows):
        policy.eval()
        for found in rows:
            prompt = [WORDS.index(word) for word in found.prompt.split()]
            ids, length = torch.tensor([prompt + found.ids]), len(found.ids)
            if case == "LoRA":
                with policy.disable_adapter():
                    q = log_probs(policy, ids, length)
            else:
                q = log_probs(reference, ids, length)
            p = log_probs(policy, ids, length)
            seen.append((found, p, q, torch.tensor(found.ids)))

    # The models as they are before the first update: with a learning rate of 0 they stay so.
    for group in trainer.create_optimizer().param_groups:
        group["lr"] = 0.0
    trainer.args.learning_rate = 0.0
    trainer.train()
    (step,) = read_credit_log(tmp_path / "run")
    look(step.completions)
    assert len(seen) == 8
    assert step.header["engine"] == "watch"
    for found, p, q, ids in seen:
        sampled = torch.arange(len(ids)), ids
        d = 1 - (0.5 * (p + q)).exp().sum(-1)
        h = -(p.exp() * p).sum(-1) / torch.tensor(float(len(WORDS))).log()
        assert found.logp == pytest.approx(p[sampled].tolist(), rel=2e-3, abs=2e-5)
        assert found.log_ratio == pytest.approx((p - q)[sampled].tolist(), rel=2e-3, abs=1e-4)
        assert found.d == pytest.approx(d.tolist(), rel=2e-3, abs=1e-6)
        assert found.h == pytest.approx(h.tolist(), rel=1e-3)
        assert found.s == pytest.approx((d * h).tolist(), rel=3e-3, abs=1e-6)
        assert found.w == [1.0] * len(ids)
        best = p.exp().topk(5, dim=-1)
        for index in range(len(ids)):
            words = [word for word, _ in found.alternatives[index]["policy"]]
            assert words == [WORDS[i] for i in best.indices[index].tolist()]
    assert max(x for found, *_ in seen for x in found.d) > 1e-2


def test_whole_groups_with_answers_rewards_and_reasons(checkpoint, tmp_path):
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1}
    trainer = train(checkpoint, tmp_path, watched={"every": 5}, **options)
    (step,) = read_credit_log(tmp_path)
    assert step.header["out_of"] == 16
    assert [completion.group for completion in step.completions] == [
        step.completions[i // 4 * 4].group for i in range(8)
    ]
    for completion in step.completions:
        assert completion.answer == completion.prompt.split()[0]
        assert completion.ended == "eos"
        assert completion.rewards == {"spread_reward": pytest.approx(spread_reward([completion.ids])[0], rel=1e-4)}
    for start in (0, 4):
        rewards = torch.tensor([completion.reward for completion in step.completions[start : start + 4]])
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        given = [completion.advantage for completion in step.completions[start : start + 4]]
        assert given == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-3)
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(("every", "logged"), [(2, [1, 2, 4, 5]), (100, [1, 5])])
def test_first_due_and_last_steps_are_logged(checkpoint, tmp_path, every, logged):
    train(checkpoint, tmp_path, watched={"every": every}, max_steps=5)
    assert [step.step for step in read_credit_log(tmp_path)] == logged


def test_nothing_is_done_between_logged_steps(checkpoint, tmp_path, monkeypatch):
    """One pass of the reference, one listener and one set of columns a logged step; none at the others."""
    from dgpo.engines.trl import watching
    from dgpo.engines.trl.reference import Reference

    calls = []
    for owner, name in ((watching, "Listener"), (watching, "log_columns"), (Reference, "score")):
        original = getattr(owner, name)

        def counted(*args, original=original, name=name, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    train(checkpoint, tmp_path, watched={"every": 4}, max_steps=9, beta=0.1)
    assert {name: calls.count(name) for name in calls} == {"Listener": 4, "log_columns": 4, "score": 4}  # 1, 4, 8, 9


def test_later_updates_of_a_rollout_show_how_far_the_policy_has_moved(checkpoint, tmp_path):
    train(checkpoint, tmp_path, watched={"every": 1}, num_iterations=2, max_steps=2, learning_rate=1.0)
    largest = [
        max(abs(x) for completion in step.completions for x in completion.columns["sampling_log_ratio"])
        for step in read_credit_log(tmp_path)
    ]
    assert largest[0] == 0.0
    assert largest[1] > 1e-3


def test_another_rule_shows_what_it_would_have_given(checkpoint, tmp_path):
    rule = {"credit_rule": "dgpo", "credit_options": {"tau": 0.02}}
    trainer = train(checkpoint, tmp_path / "watched", watched={"every": 1, **rule}, beta=0.1, perturb=0.3, max_steps=2)
    plain = train(checkpoint, tmp_path / "plain", beta=0.1, perturb=0.3, max_steps=2)
    assert torch.equal(parameters(trainer), parameters(plain))
    for step in read_credit_log(tmp_path / "watched"):
        assert step.header["options"] == {"tau": 0.02, "kappa": 1.0}
        for found in step.completions:
            s = torch.tensor(found.s)
            assert found.w == pytest.approx((torch.softmax(s / 0.02, 0) * len(s)).tolist(), rel=5e-3, abs=1e-5)
            assert max(found.w) > 1.2


def test_a_rule_that_compares_completions_sees_the_whole_group(checkpoint, tmp_path):
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1}
    rule = {"credit_rule": f"{HERE.replace('test_watch', 'whole_groups_rule')}:group_size"}
    train(checkpoint, tmp_path, watched={"every": 1, **rule}, **options)
    (step,) = read_credit_log(tmp_path)
    assert all(set(completion.columns["size"]) == {4.0} for completion in step.completions)


def test_a_trainer_of_another_kind_of_advantage_is_shown_by_its_mean(checkpoint, tmp_path):
    class TokenAdvantages(FixedGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            outputs = super()._generate_and_score_completions(inputs)
            outputs["advantages"] = outputs["advantages"][:, None] * outputs["completion_mask"]
            return outputs

    train(checkpoint, tmp_path / "a", watched={"every": 1}, trainer_class=TokenAdvantages, max_steps=1)
    train(checkpoint, tmp_path / "b", watched={"every": 1}, max_steps=1)
    ours, plain = (read_credit_log(tmp_path / name)[0].completions for name in "ab")
    assert [one.advantage for one in ours] == pytest.approx([one.advantage for one in plain], rel=1e-3)


def test_a_subclass_that_leaves_completions_out_is_grouped_by_prompt(checkpoint, tmp_path):
    class Half(FixedGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            outputs = super()._generate_and_score_completions(inputs)
            rows = torch.arange(0, len(inputs), 2)
            return {name: x[rows] if getattr(x, "ndim", 0) else x for name, x in outputs.items()}

    train(checkpoint, tmp_path, watched={"every": 1}, trainer_class=Half, max_steps=1)
    (step,) = read_credit_log(tmp_path)
    assert [completion.group for completion in step.completions].count(step.completions[0].group) == 2
    assert len(step.completions) == 4
    assert all(completion.rewards == {} and completion.answer is None for completion in step.completions)


def test_a_loss_that_scores_nothing_is_said_once_and_the_training_goes_on(checkpoint, tmp_path, caplog):
    class Elsewhere(FixedGRPOTrainer):
        def _compute_loss(self, model, inputs):
            return sum(p.sum() for p in model.parameters()) * 0.0

    trainer = train(checkpoint, tmp_path, watched={"every": 1}, trainer_class=Elsewhere, max_steps=3)
    assert trainer.state.global_step == 3
    assert caplog.text.count("The loss of Elsewhere cannot be watched") == 1
    assert read_credit_log(tmp_path) == []


@pytest.mark.parametrize("place", ["log_columns", "Listener", "assign_credit"])
def test_whatever_goes_wrong_the_training_goes_on(checkpoint, tmp_path, monkeypatch, caplog, place):
    from dgpo.engines.trl import watching

    monkeypatch.setattr(watching, place, lambda *a, **k: 1 / 0)
    trainer = train(checkpoint, tmp_path, watched={"every": 1})
    plain = train(checkpoint, tmp_path / "plain")
    assert torch.equal(parameters(trainer), parameters(plain))
    assert "ZeroDivisionError" in caplog.text


def test_an_error_inside_of_the_kernel_does_not_reach_the_loss(checkpoint, tmp_path, monkeypatch, caplog):
    from dgpo.engines.trl import listener

    monkeypatch.setattr(listener, "LikeliestObserver", lambda *a, **k: 1 / 0)
    trainer = train(checkpoint, tmp_path, watched={"every": 1})
    assert trainer.state.global_step == 3
    assert "cannot be watched: division by zero" in caplog.text


def test_a_resumed_run_continues_the_log(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1.0}
    train(checkpoint, tmp_path, watched={"every": 1}, **options)
    before = [vars(step) for step in read_credit_log(tmp_path)]
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path, dataset=answered(), **options)
    dgpo.watch(trainer, every=1)
    trainer.generation_calls = 2
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [vars(step) for step in read_credit_log(tmp_path)] == before


def test_the_page_has_curves_and_groups_of_a_run_without_checkpoints(checkpoint, tmp_path):
    train(checkpoint, tmp_path, watched={"every": 2}, max_steps=5)
    run = read_run(tmp_path)
    assert [step for step, _ in run.curves["reward"]] == [1, 2, 3, 4, 5]
    assert run.notes == []
    assert run.config["engine"] == "watch"


def test_a_log_elsewhere_leaves_the_output_directory_alone(checkpoint, tmp_path):
    train(checkpoint, tmp_path / "run", watched={"every": 1, "output_dir": tmp_path / "log"}, max_steps=1)
    assert not (tmp_path / "run" / "credit").exists()
    assert len(read_credit_log(tmp_path / "log")) == 1
    lines = (tmp_path / "log" / "credit" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 1


def test_an_adapter_that_is_no_reference_when_switched_off_is_watched_without_one(checkpoint, tmp_path, caplog):
    config = LoraConfig(r=4, bias="all", target_modules=["q_proj"])
    with caplog.at_level(logging.WARNING):
        train(checkpoint, tmp_path, watched={"every": 1}, peft_config=config, max_steps=1)
    assert "watched without a reference" in caplog.text
    (step,) = read_credit_log(tmp_path)
    assert all(x is None for completion in step.completions for x in completion.d)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"completions": True}, "completions must be a whole number"),
        ({"answer": "anser"}, r"no column 'anser'. Did you mean 'answer'\?"),
        ({"credit_rule": "dgpo"}, "reads hellinger_sq, and there is no reference"),
        ({"credit_rule": "gtpo", "completions": 3}, "compares all completions of a prompt"),
        ({"reference": "/nowhere/model"}, "The reference '/nowhere/model' cannot be loaded"),
        ({"credit_rule": "dgpoo"}, "Did you mean 'dgpo'"),
    ],
)
def test_what_cannot_be_watched_is_refused(checkpoint, tmp_path, given, message):
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path, dataset=answered())
    with pytest.raises(ConfigError, match=message):
        dgpo.watch(trainer, **given)


def test_other_trainers_are_refused(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path)
    with pytest.raises(ConfigError, match=r"FixedDGPOTrainer writes a credit log of its own.*credit_log_steps=20"):
        dgpo.watch(trainer)
    with pytest.raises(ConfigError, match="GRPOTrainer; object is none"):
        dgpo.watch(object())
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path)
    dgpo.watch(trainer)
    with pytest.raises(ConfigError, match="watched already"):
        dgpo.watch(trainer)


def test_another_vocabulary_is_refused(checkpoint, tmp_path):
    other = make_checkpoint(tmp_path / "other", vocab_size=len(WORDS) + 1)
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path / "run")
    with pytest.raises(ConfigError, match="Vocabulary sizes differ: policy 23, reference 24"):
        dgpo.watch(trainer, reference=other)
