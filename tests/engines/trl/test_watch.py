"""`dgpo.watch` shows what a `GRPOTrainer` does and changes no bit of it."""

import json
import logging

import pytest
import torch
from peft import LoraConfig
from support import (
    WORDS,
    FixedGRPOTrainer,
    answered,
    lora,
    make_checkpoint,
    make_trainer,
    parameters,
    spread_reward,
    train_watched,
)
from transformers import AutoModelForCausalLM

import dgpo
from dgpo.credit_log import read_credit_log
from dgpo.lab.report.differences import run_labels, seed_bands
from dgpo.lab.runs.reader import read_run

HERE = __file__


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
        ((place, top),) = found.alternatives.items()  # an eighth of fewer than 16 tokens
        assert place == int((d * h).argmax())
        best = p[place].exp().topk(5)
        assert [word for word, _ in top["policy"]] == [WORDS[i] for i in best.indices.tolist()]
        assert [share for _, share in top["reference"]] == pytest.approx(
            q[place].exp().topk(5).values.tolist(), rel=1e-2
        )
    assert max(x for found, *_ in seen for x in found.d) > 1e-2


def test_whole_groups_with_answers_rewards_and_reasons(checkpoint, tmp_path):
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1}
    trainer = train_watched(checkpoint, tmp_path, watched={"every": 5}, **options)
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
    train_watched(checkpoint, tmp_path, watched={"every": every}, max_steps=5)
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
    train_watched(checkpoint, tmp_path, watched={"every": 4}, max_steps=9, beta=0.1)
    assert {name: calls.count(name) for name in calls} == {"Listener": 4, "log_columns": 4, "score": 4}  # 1, 4, 8, 9


def test_later_updates_of_a_rollout_show_how_far_the_policy_has_moved(checkpoint, tmp_path):
    train_watched(checkpoint, tmp_path, watched={"every": 1}, num_iterations=2, max_steps=2, learning_rate=1.0)
    largest = [
        max(abs(x) for completion in step.completions for x in completion.columns["sampling_log_ratio"])
        for step in read_credit_log(tmp_path)
    ]
    assert largest[0] == 0.0
    assert largest[1] > 1e-3


def test_another_rule_shows_what_it_would_have_given(checkpoint, tmp_path):
    rule = {"credit_rule": "dgpo", "credit_options": {"tau": 0.02}}
    trainer = train_watched(
        checkpoint, tmp_path / "watched", watched={"every": 1, **rule}, beta=0.1, perturb=0.3, max_steps=2
    )
    plain = train_watched(checkpoint, tmp_path / "plain", beta=0.1, perturb=0.3, max_steps=2)
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
    train_watched(checkpoint, tmp_path, watched={"every": 1, **rule}, **options)
    (step,) = read_credit_log(tmp_path)
    assert all(set(completion.columns["size"]) == {4.0} for completion in step.completions)


def test_a_trainer_of_another_kind_of_advantage_is_shown_by_its_mean(checkpoint, tmp_path):
    class TokenAdvantages(FixedGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            outputs = super()._generate_and_score_completions(inputs)
            outputs["advantages"] = outputs["advantages"][:, None] * outputs["completion_mask"]
            return outputs

    train_watched(checkpoint, tmp_path / "a", watched={"every": 1}, trainer_class=TokenAdvantages, max_steps=1)
    train_watched(checkpoint, tmp_path / "b", watched={"every": 1}, max_steps=1)
    ours, plain = (read_credit_log(tmp_path / name)[0].completions for name in "ab")
    assert [one.advantage for one in ours] == pytest.approx([one.advantage for one in plain], rel=1e-3)


def test_a_subclass_that_leaves_completions_out_is_grouped_by_prompt(checkpoint, tmp_path):
    class Half(FixedGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            outputs = super()._generate_and_score_completions(inputs)
            rows = torch.arange(0, len(inputs), 2)
            return {name: x[rows] if getattr(x, "ndim", 0) else x for name, x in outputs.items()}

    train_watched(checkpoint, tmp_path, watched={"every": 1}, trainer_class=Half, max_steps=1)
    (step,) = read_credit_log(tmp_path)
    assert [completion.group for completion in step.completions].count(step.completions[0].group) == 2
    assert len(step.completions) == 4
    assert all(completion.rewards == {} and completion.answer is None for completion in step.completions)


def test_a_loss_that_scores_nothing_is_said_once_and_the_training_goes_on(checkpoint, tmp_path, caplog):
    class Elsewhere(FixedGRPOTrainer):
        def _compute_loss(self, model, inputs):
            return sum(p.sum() for p in model.parameters()) * 0.0

    trainer = train_watched(checkpoint, tmp_path, watched={"every": 1}, trainer_class=Elsewhere, max_steps=3)
    assert trainer.state.global_step == 3
    assert caplog.text.count("The loss of Elsewhere cannot be watched") == 1
    assert read_credit_log(tmp_path) == []


@pytest.mark.parametrize("place", ["log_columns", "Listener", "assign_credit"])
def test_whatever_goes_wrong_the_training_goes_on(checkpoint, tmp_path, monkeypatch, caplog, place):
    from dgpo.engines.trl import watching

    monkeypatch.setattr(watching, place, lambda *a, **k: 1 / 0)
    trainer = train_watched(checkpoint, tmp_path, watched={"every": 1})
    plain = train_watched(checkpoint, tmp_path / "plain")
    assert torch.equal(parameters(trainer), parameters(plain))
    assert "ZeroDivisionError" in caplog.text


def test_an_error_inside_of_the_kernel_does_not_reach_the_loss(checkpoint, tmp_path, monkeypatch, caplog):
    from dgpo.engines.trl import listener

    monkeypatch.setattr(listener, "LikeliestObserver", lambda *a, **k: 1 / 0)
    trainer = train_watched(checkpoint, tmp_path, watched={"every": 1})
    assert trainer.state.global_step == 3
    assert "cannot be watched: division by zero" in caplog.text


def test_a_resumed_run_continues_the_log(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1.0}
    train_watched(checkpoint, tmp_path, watched={"every": 1}, **options)
    before = [vars(step) for step in read_credit_log(tmp_path)]
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path, dataset=answered(), **options)
    dgpo.watch(trainer, every=1)
    trainer.generation_calls = 2
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [vars(step) for step in read_credit_log(tmp_path)] == before


def test_the_page_has_curves_and_groups_of_a_run_without_checkpoints(checkpoint, tmp_path):
    train_watched(checkpoint, tmp_path, watched={"every": 2}, max_steps=5)
    run = read_run(tmp_path)
    assert [step for step, _ in run.curves["reward"]] == [1, 2, 3, 4, 5]
    assert run.notes == []
    assert run.config["engine"] == "watch"


def test_runs_of_plain_trainers_are_called_by_what_differs(checkpoint, tmp_path):
    runs = []
    for rate, seed in ((0.05, 0), (0.5, 0), (0.05, 1)):
        options = {"learning_rate": rate, "seed": seed, "max_steps": 1, "hub_token": "secret"}
        train_watched(checkpoint, tmp_path / f"{rate}-{seed}", watched={"every": 1}, **options)
        runs.append(read_run(tmp_path / f"{rate}-{seed}"))
    assert run_labels(runs[:2]) == ["learning_rate 0.05", "learning_rate 0.5"]
    assert [row["runs"] for row in seed_bands(runs)] == [[0, 2], [1]]
    config = runs[0].config
    assert (config["num_generations"], config["max_grad_norm"], config["model_name_or_path"]) == (4, 0.0, checkpoint)
    assert "secret" not in str(config)
    assert str(tmp_path) not in str(config | {"model_name_or_path": ""})


def test_a_log_elsewhere_leaves_the_output_directory_alone(checkpoint, tmp_path):
    train_watched(checkpoint, tmp_path / "run", watched={"every": 1, "output_dir": tmp_path / "log"}, max_steps=1)
    assert not (tmp_path / "run" / "credit").exists()
    assert len(read_credit_log(tmp_path / "log")) == 1
    lines = (tmp_path / "log" / "credit" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 1


def test_an_adapter_that_is_no_reference_when_switched_off_is_watched_without_one(checkpoint, tmp_path, caplog):
    config = LoraConfig(r=4, bias="all", target_modules=["q_proj"])
    with caplog.at_level(logging.WARNING):
        train_watched(checkpoint, tmp_path, watched={"every": 1}, peft_config=config, max_steps=1)
    assert "watched without a reference" in caplog.text
    (step,) = read_credit_log(tmp_path)
    assert all(x is None for completion in step.completions for x in completion.d)
