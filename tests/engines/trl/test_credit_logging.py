"""What the credit log says is what the trainer did; off, it is not there; whatever goes wrong, the training goes on."""

import itertools
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support import WORDS, FixedDGPOTrainer, make_trainer, parameters, spread_reward

from dgpo.credit_log import read_credit_log
from dgpo.errors import ConfigError


def train(checkpoint, folder, **options):
    """Train, and return the trainer with everything that was given credit, a batch an entry."""
    defaults = {"perturb": 0.3, "tau": 0.02, "credit_log_steps": 1, "max_steps": 3}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, folder, **{**defaults, **options})
    given, assign = [], trainer._assign_credit

    def spy(inputs, scores):
        credit = assign(inputs, scores)
        columns = {"weights": credit.weights, "scores": credit.scores, "step": trainer.state.global_step + 1}
        given.append({**inputs, **scores.per_token, **columns})
        return credit

    trainer._assign_credit = spy
    trainer.train()
    return trainer, given


def rows_by_ids(batches):
    return {
        tuple(batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()): (batch, row)
        for batch in batches
        for row in range(len(batch["completion_ids"]))
    }


@pytest.mark.parametrize("policy", ["current", "old"])
def test_the_log_holds_what_the_trainer_gave(checkpoint, tmp_path, policy):
    options = {"num_iterations": 2, "max_steps": 4} if policy == "old" else {}
    _, given = train(checkpoint, tmp_path, credit_policy=policy, **options)
    steps = read_credit_log(tmp_path)
    assert [step.step for step in steps] == ([1, 3] if policy == "old" else [1, 2, 3])
    for step in steps:
        rows = rows_by_ids(batch for batch in given if batch["step"] == step.step)
        assert len(step.completions) == step.header["out_of"] == len(rows) == 8
        assert step.header["credit_policy"] == policy
        for found in step.completions:
            batch, row = rows[tuple(found.ids)]
            kept = batch["completion_mask"][row].bool()
            entropy = batch["entropy"][row][kept] / torch.tensor(float(len(WORDS))).log()
            log_ratio = (batch["logps"] - batch["ref_logps"])[row][kept]
            assert found.w == pytest.approx(batch["weights"][row][kept].tolist(), rel=1e-4)
            assert found.d == pytest.approx(batch["hellinger_sq"][row][kept].tolist(), rel=1e-4)
            assert found.s == pytest.approx(batch["scores"][row][kept].tolist(), rel=1e-4)
            assert found.h == pytest.approx(entropy.tolist(), rel=1e-4)
            assert found.log_ratio == pytest.approx(log_ratio.tolist(), rel=1e-3, abs=1e-6)
            assert found.advantage == pytest.approx(batch["advantages"][row].item(), rel=1e-4)
            assert found.rewards == {"spread_reward": pytest.approx(spread_reward([found.ids])[0], rel=1e-4)}
            assert found.reward == found.rewards["spread_reward"]
            assert "".join(found.tokens) == " ".join(WORDS[index] for index in found.ids)
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            assert found.prompt == " ".join(WORDS[index] for index in prompt.tolist())
            assert not found.truncated
    # Weights that are all 1 would prove nothing.
    assert max(w for step in steps for found in step.completions for w in found.w) > 1.5


def test_alternatives_are_the_likeliest_tokens_of_both_models(checkpoint, tmp_path):
    """Checked against full logits of the models as they were at the first step."""
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(
        FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.3, credit_log_steps=1, max_steps=1, temperature=0.7
    )
    policy = AutoModelForCausalLM.from_pretrained(checkpoint)
    policy.load_state_dict({name: value.clone() for name, value in trainer.model.state_dict().items()})
    reference = AutoModelForCausalLM.from_pretrained(checkpoint)
    trainer.train()
    (step,) = read_credit_log(tmp_path)
    for found in step.completions[:3]:
        prompt = [WORDS.index(word) for word in found.prompt.split()]
        ids = torch.tensor([prompt + found.ids])
        for who, model in (("policy", policy), ("reference", reference)):
            with torch.no_grad():
                logits = model(ids).logits[0, len(prompt) - 1 : -1] / 0.7
            expected = logits.softmax(-1).topk(5, dim=-1)
            for index in range(len(found.ids)):
                words, probabilities = zip(*found.alternatives[index][who], strict=True)
                assert list(words) == [WORDS[i] for i in expected.indices[index].tolist()]
                assert list(probabilities) == pytest.approx(expected.values[index].tolist(), rel=1e-3)


def test_logging_changes_nothing_that_is_trained(checkpoint, tmp_path):
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    without, _ = train(checkpoint, tmp_path / "off", credit_log_steps=0, **options)
    logged, _ = train(checkpoint, tmp_path / "on", **options)
    assert torch.equal(parameters(without), parameters(logged))
    assert not (tmp_path / "off" / "credit").exists()
    assert without._credit_logging is None


def test_off_adds_nothing_to_what_is_passed_on(checkpoint, tmp_path):
    _, given = train(checkpoint, tmp_path, credit_log_steps=0, max_steps=1)
    assert not any("rewards" in name for batch in given for name in batch)


@pytest.mark.parametrize(("room", "sizes"), [(8, [4, 4]), (6, [4]), (3, [3]), (100, [4, 4, 4, 4])])
def test_accumulated_batches_give_whole_groups_and_no_more(checkpoint, tmp_path, room, sizes):
    """TRL shuffles the rollout and cuts it into four micro-batches, so that each of them holds parts of groups."""
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1}
    _, given = train(checkpoint, tmp_path, credit_log_completions=room, **options)
    (step,) = read_credit_log(tmp_path)
    assert len(given) == 4
    assert [len(list(group)) for _, group in itertools.groupby(step.completions, lambda found: found.group)] == sizes
    assert step.header["out_of"] == 16
    rows = rows_by_ids(given)
    for found in step.completions:
        batch, row = rows[tuple(found.ids)]
        assert found.group == int(batch["dgpo_group"][row])
        assert len({one.prompt for one in step.completions if one.group == found.group}) == 1


@pytest.mark.parametrize(("every", "logged"), [(2, [1, 2, 4, 5]), (100, [1, 5])])
def test_first_due_and_last_steps_are_logged(checkpoint, tmp_path, every, logged):
    train(checkpoint, tmp_path, credit_log_steps=every, max_steps=5)
    assert [step.step for step in read_credit_log(tmp_path)] == logged


def test_a_resumed_run_continues_the_log(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "perturb": 0.0, "learning_rate": 1.0}
    whole, _ = train(checkpoint, tmp_path, **options)
    before = [vars(step) for step in read_credit_log(tmp_path)]
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, tau=0.02, credit_log_steps=1, **options)
    trainer.generation_calls = 2  # the fixed completions count their calls
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(parameters(whole), parameters(trainer))
    assert [vars(step) for step in read_credit_log(tmp_path)] == before


def test_cut_off_completions_say_so(checkpoint, tmp_path):
    class CutOff(FixedDGPOTrainer):
        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            completions, extra = super()._generate_single_turn(prompt_ids, *args, **kwargs)
            return [ids[:-1] if row % 2 else ids for row, ids in enumerate(completions)], extra

    make_trainer(CutOff, checkpoint, tmp_path, credit_log_steps=1, max_steps=1).train()
    (step,) = read_credit_log(tmp_path)
    assert [found.truncated for found in step.completions].count(True) == 4
    assert all(found.truncated == (found.tokens[-1] != " <eos>") for found in step.completions)


def test_whatever_goes_wrong_the_training_goes_on(checkpoint, tmp_path, monkeypatch, caplog):
    from dgpo.engines.trl import step_log

    monkeypatch.setattr(step_log, "collect_completion", lambda *a, **k: 1 / 0)
    trainer, _ = train(checkpoint, tmp_path)
    assert trainer.state.global_step == 3
    assert "The credit of step 1 could not be logged" in caplog.text


def test_a_tracker_that_fails_costs_no_file(checkpoint, tmp_path, monkeypatch, caplog):
    from dgpo.engines.trl import step_log

    monkeypatch.setattr(step_log, "send_tables", lambda *a, **k: 1 / 0)
    train(checkpoint, tmp_path, max_steps=2)
    assert [step.step for step in read_credit_log(tmp_path)] == [1, 2]
    assert "A tracker did not take the credit of step 2" in caplog.text


def test_off_reads_and_picks_nothing(checkpoint, tmp_path, monkeypatch):
    """Off, no part of the logging is ever entered, and none of its callbacks is there."""
    from dgpo.engines.trl import credit_logging

    monkeypatch.setattr(credit_logging.CreditLogging, "__init__", lambda *a: 1 / 0)
    monkeypatch.setattr(credit_logging, "LikeliestObserver", lambda *a: 1 / 0)
    trainer, _ = train(checkpoint, tmp_path, credit_log_steps=0, max_steps=1)
    assert not any(isinstance(c, credit_logging.CreditLogging) for c in trainer.callback_handler.callbacks)


def test_an_adapter_is_logged_against_the_model_without_it(checkpoint, tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    options = {"perturb": 0.0, "peft_config": lora, "learning_rate": 0.5, "max_steps": 3}
    _, given = train(checkpoint, tmp_path, **options)
    steps = read_credit_log(tmp_path)
    assert [step.step for step in steps] == [1, 2, 3]
    for step in steps:
        rows = rows_by_ids(batch for batch in given if batch["step"] == step.step)
        for found in step.completions:
            batch, row = rows[tuple(found.ids)]
            kept = batch["completion_mask"][row].bool()
            assert found.w == pytest.approx(batch["weights"][row][kept].tolist(), rel=1e-4)
    assert max(d for found in steps[0].completions for d in found.d) < 1e-6  # a new adapter is the model itself
    assert max(d for found in steps[-1].completions for d in found.d) > 1e-3


@pytest.mark.parametrize("changes", [{"credit_log_steps": -1}, {"credit_log_completions": 0}])
def test_values_that_cannot_work_are_refused(checkpoint, tmp_path, changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} must be a whole number of at least"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **changes)


class Table:
    def __init__(self, columns=None, data=None, dataframe=None):
        self.columns = columns if dataframe is None else list(dataframe.columns)
        self.rows = data if dataframe is None else dataframe.values.tolist()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_a_table(checkpoint, tmp_path, monkeypatch, name):
    sent = []
    tracker = ModuleType(name)
    vars(tracker).update(
        Table=Table, run=object(), log=lambda metrics, **_: sent.append(metrics), __spec__=ModuleSpec(name, None)
    )
    trainer = make_trainer(
        FixedDGPOTrainer, checkpoint, tmp_path, tau=0.02, perturb=0.3, credit_log_steps=2, max_steps=2
    )
    trainer.args.report_to = [name]  # after the constructor, which would look for the real one
    monkeypatch.setitem(sys.modules, name, tracker)
    monkeypatch.setattr("trl.extras.profiling." + name, tracker, raising=False)  # TRL imported what was there
    trainer.train()
    sent = [entry for entry in sent if "dgpo/credit" in entry]  # TRL sends its timings
    assert [entry["train/global_step"] for entry in sent] == [1, 2]
    table = sent[-1]["dgpo/credit"]
    (step,) = [found for found in read_credit_log(tmp_path) if found.step == 2]
    assert len(table.rows) == 8
    row = dict(zip(table.columns, table.rows[0], strict=True))
    completion = next(c for c in step.completions if "".join(c.tokens) == row["completion"])
    assert row["weight_max"] == pytest.approx(max(completion.w), rel=1e-4)
    top = completion.tokens[completion.w.index(max(completion.w))]
    assert row["most_credited"].startswith(repr(top))


def test_tensorboard_gets_text_and_a_histogram(checkpoint, tmp_path):
    texts, histograms = [], []
    from transformers import TrainerCallback

    class Board(TrainerCallback):
        tb_writer = SimpleNamespace(
            add_text=lambda tag, text, step: texts.append((tag, text, step)),
            add_histogram=lambda tag, values, step: histograms.append((tag, values, step)),
        )

    trainer = make_trainer(
        FixedDGPOTrainer, checkpoint, tmp_path, credit_log_steps=5, max_steps=1, callbacks=(Board(),)
    )
    trainer.args.report_to = ["tensorboard"]
    trainer.train()
    ((tag, text, step),) = texts
    assert (tag, step) == ("dgpo/credit", 1)
    assert len(text.splitlines()) == 2 + 8
    ((tag, values, step),) = histograms
    (logged,) = read_credit_log(tmp_path)
    assert len(values) == sum(len(found.w) for found in logged.completions)


def test_a_completion_cannot_write_markup_into_a_table():
    from dgpo.credit_log import CompletionCredit
    from dgpo.credit_log.trackers import _COLUMNS, _markdown, _row

    one = [0.0]
    evil = CompletionCredit("p|q\n| x |", [1], ["<img src=x onerror=alert(1)> `*_[a](b)"], one, one, one, one, one, one)
    line = _markdown([_row(1, evil)]).splitlines()
    assert len(line) == 3
    assert line[2].count("|") == len(_COLUMNS) + 1
    assert not set("<>`*_[]()") & set(line[2])
