"""Any rule trains: built in, from a file, signed, over whole groups; GRPO without a reference; refusals say why."""

import json
import textwrap

import pytest
import torch
from support import FixedDGPOTrainer, FixedGRPOTrainer, Recorder, lora, make_trainer, parameters
from test_equals_grpo import LOSS_TYPES, assert_same_training
from trl import GRPOTrainer

from dgpo import DGPOConfig, credit_rule
from dgpo.engines.trl.rollout import GROUP, REWARD
from dgpo.errors import ConfigError, TrainingError

EVEN = {"credit_rule": "even"}


def train_pair(checkpoint, tmp_path, dgpo, **options):
    """The same training by GRPO and by a rule."""
    trainers = []
    for trainer_class, extra in ((FixedGRPOTrainer, {}), (FixedDGPOTrainer, dgpo)):
        folder = tmp_path / trainer_class.__name__
        trainer = make_trainer(trainer_class, checkpoint, folder, perturb=0.05, **options, **extra)
        trainer.train()
        trainers.append(trainer)
    return trainers


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_even_is_grpo_and_builds_no_reference(checkpoint, tmp_path, loss_type, accumulation):
    batch = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8 if accumulation == 1 else 4}
    grpo, ours = train_pair(checkpoint, tmp_path, EVEN, loss_type=loss_type, **batch)
    assert ours.ref_model is None
    assert not any("hellinger" in name or "gate" in name or name == "kl" for name in ours.recorder.steps[-1])
    assert ours.recorder.steps[-1]["dgpo/effective_share"] == 1
    assert_same_training(ours, grpo)


@pytest.mark.parametrize("options", [{"beta": 0.5}, {"peft_config": lora(), "beta": 0.5}])
def test_even_with_a_kl_penalty_has_trls_reference(checkpoint, tmp_path, options):
    grpo, ours = train_pair(checkpoint, tmp_path, EVEN, **options)
    assert ours.beta == 0.5
    assert ours.recorder.steps[-1]["kl"] == pytest.approx(grpo.recorder.steps[-1]["kl"], rel=1e-4)
    assert_same_training(ours, grpo, relative=1e-4)


def test_beta_reads_what_was_set(checkpoint, tmp_path):
    seen = []

    class Reads(Recorder):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(trainer.beta)

    for beta in (0.0, 0.3):
        trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, beta=beta, callbacks=(Reads(),), max_steps=1)
        assert trainer.beta == trainer.args.beta == beta
        trainer.train()
    assert seen == [0.0, 0.3]


def test_a_rule_of_ten_lines_in_a_file_trains(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        textwrap.dedent("""
        import dgpo

        def late(stats, *, slope=1.0):
            mask = stats.completion_mask.float()
            weights = mask * (1 + slope * mask.cumsum(-1))
            return weights * (mask.sum(-1) / weights.sum(-1).clamp(min=1e-9))[:, None]
        """)
    )
    monkeypatch.chdir(tmp_path)
    options = {"credit_rule": "my_rules.py:late", "credit_options": {"slope": 2.0}, "credit_log_steps": 1}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path / "run", **options)
    seen = {}
    assign = trainer._assign_credit

    def spy(inputs, scores):
        credit = assign(inputs, scores)
        seen.update(weights=credit.weights, mask=inputs["completion_mask"])
        return credit

    trainer._assign_credit = spy
    trainer.train()
    length = int(seen["mask"][0].sum())
    expected = 1 + 2.0 * torch.arange(1, length + 1)
    torch.testing.assert_close(seen["weights"][0, :length], expected * length / expected.sum())
    from dgpo.credit_log import read_credit_log

    header = read_credit_log(tmp_path / "run")[0].header
    assert header["rule"] == "my_rules.py:late"
    assert header["options"] == {"slope": 2.0}
    assert len(header["source"]) == 12


def test_a_rule_sees_group_and_reward_of_its_rows_whatever_the_order(checkpoint, tmp_path):
    """TRL shuffles a rollout: rewards within a group must give the advantages that TRL gave these rows."""
    batches = []
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1, **EVEN}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    original = trainer._assign_credit

    def before_the_loss(inputs, scores):
        batches.append({name: inputs[name].clone() for name in (GROUP, REWARD, "advantages")})
        return original(inputs, scores)

    trainer._assign_credit = before_the_loss
    trainer.train()
    group, reward, advantages = (torch.cat([b[name] for b in batches]) for name in (GROUP, REWARD, "advantages"))
    assert group.tolist() != sorted(group.tolist())  # shuffled
    assert group.bincount().tolist() == [4, 4, 4, 4]
    for index in range(4):
        mine = reward[group == index]
        expected = (mine - mine.mean()) / (mine.std() + 1e-4)
        torch.testing.assert_close(advantages[group == index], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2, "max_steps": 2}])
def test_a_rule_over_whole_groups_sees_them_whole_with_old_credit(checkpoint, tmp_path, options):
    """Token advantages of shuffled micro-batches are those of the whole rollout in order."""
    batch = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1, **options}
    rule = {"credit_rule": "gtpo", "credit_policy": "old"}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05, **batch, **rule)
    seen = []
    original = trainer._assign_credit

    def spy(inputs, scores):
        credit = original(inputs, scores)
        seen.append((len(inputs["completion_ids"]), credit))
        return credit

    trainer._assign_credit = spy
    trainer.train()
    assert [rows for rows, _ in seen] == [16]
    assert trainer.recorder.steps[0]["dgpo/weight/mean"] == pytest.approx(1.0, abs=0.2)
    assert trainer.recorder.steps[0]["dgpo/weight/std"] > 0


def test_a_rule_over_whole_groups_is_refused_where_it_would_see_parts(checkpoint, tmp_path):
    batch = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4}
    with pytest.raises(ConfigError, match=r"gtpo compares all completions.*Use credit_policy='old'"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, credit_rule="gtpo", **batch)
    make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, credit_rule="gtpo")  # one micro-batch is the whole rollout


@credit_rule(reads=(), signed=True)
def first_token_signed(stats):
    mask = stats.completion_mask
    return torch.where(mask & (mask.cumsum(-1) == 1), -stats.advantages[:, None], torch.zeros(mask.shape))


def test_a_signed_rule_gives_the_token_advantages(checkpoint, tmp_path):
    options = {"credit_rule": "test_rules:first_token_signed", "max_steps": 1}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05, **options)
    seen = []
    theirs = GRPOTrainer._compute_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_compute_loss", lambda s, m, i: (seen.append(i["advantages"]), theirs(s, m, i))[1])
        trainer.train()
    assert torch.equal((seen[0] != 0).sum(-1) <= 1, torch.ones(8, dtype=torch.bool))
    assert (seen[0] != 0).any()
    assert {"dgpo/token_advantage/min", "dgpo/token_advantage/max"} <= trainer.recorder.steps[0].keys()
    assert not any("weight" in name for name in trainer.recorder.steps[0])


@credit_rule(reads=("kl",))
def reads_kl(stats):
    return stats.completion_mask.float() + 0 * stats.kl


def breaks_later(stats):
    if len(stats.advantages) > 4:  # not on the made-up batch
        raise RuntimeError("a rule with a fault")
    return stats.completion_mask.float()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit_rule": "evn"}, r"no credit rule 'evn'\. Did you mean 'even'\?"),
        (
            {"credit_rule": "capped", "credit_options": {"cup": 3}},
            r"no option 'cup'\. Did you mean 'cap'\?.*tau, kappa",
        ),
        ({"credit_rule": "capped", "credit_options": {"cap": 0.5}}, r"cap is 0\.5.*must be above 1"),
        ({"credit_rule": "even", "tau": 0.1}, r"even has no option 'tau'"),
        ({"tau": 0.1, "credit_options": {"tau": 0.2}}, r"contradict each other"),
        ({"credit_rule": "nowhere.rules:mine"}, r"no module 'nowhere'"),
        ({"credit_rule": "absent.py:mine"}, r"no file absent\.py"),
        ({"credit_rule": "math:sqrt"}, r"does not work"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_before_anything_is_loaded(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        DGPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, **options)


def test_kl_over_the_vocabulary_is_refused_with_the_reason(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"reads kl.*computes hellinger_sq and ref_logps"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, credit_rule="test_rules:reads_kl")


def test_a_rule_that_fails_while_training_names_itself_and_the_step(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, credit_rule="test_rules:breaks_later")
    with pytest.raises(TrainingError, match=r"credit of step 1 could not be assigned: a rule with a fault"):
        trainer.train()


def test_settings_survive_a_round_trip(tmp_path):
    rule = {"credit_rule": "capped", "credit_options": {"cap": 3.0}, "tau": 0.1}
    config = DGPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, **rule)
    assert (config.tau, config.kappa, config.resolve_rule().options["cap"]) == (0.1, 1.0, 3.0)
    stored = json.loads(config.to_json_string())
    again = DGPOConfig(output_dir=str(tmp_path), use_cpu=True, **{name: stored[name] for name in (*rule, "kappa")})
    assert again.resolve_rule() == config.resolve_rule()


def test_true_rules_change_the_update(checkpoint, tmp_path):
    grpo, ours = train_pair(checkpoint, tmp_path, {"credit_rule": "entropy", "credit_options": {"tau": 0.05}})
    assert ours.ref_model is None
    assert (parameters(ours) - parameters(grpo)).abs().max() > 1e-3
