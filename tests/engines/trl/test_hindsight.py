"""What a hinted reference thinks of a rollout: against a naive recomputation from logits, and what is refused."""

import math

import pytest
import torch
from datasets import Dataset
from support import FixedDGPOTrainer, FixedGRPOTrainer, lora, make_dataset, make_trainer
from test_equals_grpo import assert_same_training
from transformers import AutoModelForCausalLM

from dgpo.core import hindsight_advantages
from dgpo.core.hindsight import hint_pairs, hint_totals
from dgpo.credit_log import read_credit_log
from dgpo.engines import hint_monitor
from dgpo.engines.hints import cut_hint
from dgpo.engines.trl.hindsight import COLUMNS
from dgpo.engines.trl.rollout import AGREEMENT, GROUP, REWARD, TOKEN_ADVANTAGES
from dgpo.errors import ConfigError

RULE = {"credit_rule": "hindsight", "credit_options": {"mix": 0.5}, "hint_template": "{hint} q {prompt}"}
RULE |= {"hint_control": "plain"}  # but where another one is named
PLAIN = make_dataset()
ANSWERS = ["a b c" if row % 2 else None for row in range(len(PLAIN))]
GOLD = PLAIN.add_column("answer", ANSWERS).add_column("wrong", ["d" if row % 3 else None for row in range(len(PLAIN))])
CHAT = Dataset.from_dict(
    {"prompt": [[{"role": "user", "content": text}] for text in PLAIN["prompt"]], "answer": ANSWERS}
)
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def first_letter_reward(completion_ids, **columns):
    """Right if the first token is one of the first letters."""
    return [float(ids[0] < 8) for ids in completion_ids]


def rollouts_of(trainer):
    """Train and return what each rollout held before TRL shuffled it, with the rows that it was made of."""
    seen, make = [], trainer._generate_and_score_completions

    def spy(inputs):
        outputs = make(inputs)
        seen.append((inputs, {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}))
        return outputs

    trainer._generate_and_score_completions = spy
    trainer.train()
    return seen


def naive(model, tokenizer, prompt, told, ids):
    """d and i of one completion in float64, from whole softmaxes."""
    distributions = []
    for text in (told, prompt):
        before = tokenizer(text)["input_ids"]
        logits = model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
        distributions.append(logits.double().softmax(-1))
    hinted, plain = distributions
    distance = 1 - (hinted * plain).sqrt().sum(-1)
    at = torch.arange(len(ids)), torch.tensor(ids)
    return distance, hinted[at].log() - plain[at].log()


def expected_hint(inputs, outputs, row, source):
    if source == "gold":
        return inputs[row]["answer"]
    lengths = outputs["completion_mask"].sum(-1)
    right = [
        other
        for other in range(len(lengths))
        if other != row and outputs[GROUP][other] == outputs[GROUP][row] and outputs[REWARD][other] >= 1
    ]
    if not right:
        return None
    best = min(right, key=lambda other: (int(lengths[other]), other))
    return outputs["completion_ids"][best][: int(lengths[best])]


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("gold", {}),
        ("gold", {"hint_control": "wrong"}),
        ("peer", {}),
        ("peer", {"hint_control": None}),
        ("gold", {"peft_config": lora(), "gradient_checkpointing": True}),
        ("gold", {"num_iterations": 2, "credit_policy": "old", "gradient_accumulation_steps": 2}),
    ],
    ids=[
        "gold",
        "gold and wrong",
        "peer",
        "peer and by default other",
        "lora",
        "two iterations of shuffled micro-batches",
    ],
)
def test_statistics_are_those_of_the_reference_alone(checkpoint, tmp_path, source, more):
    batch = {"per_device_train_batch_size": 4} if "num_iterations" in more else {}
    options = RULE | {"hint": source, "reward": first_letter_reward, "dataset": GOLD, "max_steps": 4, **batch} | more
    perturb = 0.0 if "peft_config" in more else 0.05  # of the policy: the reference must not move with it
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=perturb, **options)
    reference, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint).double(), trainer._tokenizer
    seen = rollouts_of(trainer)
    hinted, control = 0, trainer.args.hint_control

    def as_text(hint):
        return tokenizer.decode(hint, skip_special_tokens=True) if isinstance(hint, torch.Tensor) else hint

    for inputs, outputs in seen:
        keep = outputs["completion_mask"].bool()
        hints = [as_text(expected_hint(inputs, outputs, row, source)) for row in range(len(inputs))]
        for row, one in enumerate(inputs):
            distance, log_ratio = (outputs[key][row] for key in COLUMNS.values())
            hint, compared = hints[row], one["prompt"]
            if control != "plain" and hint is not None:
                others = [
                    hints[other % len(inputs)]
                    for other in range(row + 1, row + len(inputs))
                    if outputs[GROUP][other % len(inputs)] != outputs[GROUP][row]
                ]
                told = [one["wrong"]] if control == "wrong" else [text for text in others if text not in (None, hint)]
                hint = hint if told and told[0] is not None else None
                compared = f"{told[0]} q {one['prompt']}" if hint else None
            if hint is None:
                assert (distance == 0).all()
                assert (log_ratio == 0).all()
                continue
            hinted += 1
            ids = outputs["completion_ids"][row][keep[row]].tolist()
            expected = naive(reference, tokenizer, compared, f"{hint} q {one['prompt']}", ids)
            torch.testing.assert_close(distance[keep[row]].double(), expected[0], atol=2e-6, rtol=1e-4)
            torch.testing.assert_close(log_ratio[keep[row]].double(), expected[1], atol=2e-5, rtol=1e-4)
            assert (distance[~keep[row]] == 0).all()
    assert 0 < hinted < sum(len(inputs) for inputs, _ in seen)
    shares = [step["dgpo/hint/share"] for step in trainer.recorder.steps if "dgpo/hint/share" in step]
    assert sum(shares) / len(shares) == pytest.approx(hinted / sum(len(inputs) for inputs, _ in seen))


@pytest.mark.parametrize("more", [{}, {"hint_control": "wrong"}, {"peft_config": lora()}], ids=["", "control", "lora"])
def test_a_prompt_that_completions_share_runs_once(checkpoint, tmp_path, more):
    """Two prompts of four completions, with a hint and compared: each time the prompts alone, then the completions."""
    told = GOLD.map(lambda row: row | {"answer": "a b c", "wrong": "d"})
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **(RULE | more), dataset=told, max_steps=1)
    model = trainer.ref_model or trainer.accelerator.unwrap_model(trainer.model).get_base_model()
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score, inside = trainer._generate_and_score_completions, []

    def spy(inputs):
        before = len(shapes)
        outputs = score(inputs)
        inside.extend(shapes[before:])
        return outputs

    trainer._generate_and_score_completions = spy
    trainer.train()
    assert [rows for rows, _ in inside] == [2, 8, 2, 8]
    assert inside[1][1] == inside[3][1]  # the completions


def check_advantages(outputs):
    distance, log_ratio = (outputs[key] for key in COLUMNS.values())
    mask, agreement = outputs["completion_mask"].bool(), outputs[AGREEMENT]
    expected = hint_pairs(hint_totals(log_ratio, distance, mask), outputs[REWARD], outputs[GROUP]).agreement
    torch.testing.assert_close(agreement, expected, equal_nan=True)
    expected = hindsight_advantages(outputs["advantages"], log_ratio, distance, mask, agreement, mix=0.5)
    torch.testing.assert_close(outputs[TOKEN_ADVANTAGES], expected)
    without = (distance == 0).all(-1) | (agreement < 0.5)
    plain = outputs["advantages"][:, None] * mask
    torch.testing.assert_close(outputs[TOKEN_ADVANTAGES][without], plain[without])
    return {"contradicted": bool((agreement < 0.5).any()), "used": bool((~without).any())}


def test_token_advantages_are_the_rules_and_the_reference_is_left_out_of_the_loss(checkpoint, tmp_path):
    options = RULE | {"reward": first_letter_reward, "dataset": GOLD, "max_steps": 3, "credit_policy": "old"}
    batch = {"num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options, **batch)
    assert trainer.args.hint == "gold"
    assert not trainer._compares
    seen = [check_advantages(outputs) for _, outputs in rollouts_of(trainer)]
    assert all(any(one[name] for one in seen) for name in ("contradicted", "used"))
    assert any(step.get("dgpo/hint/contradicted", 0) > 0 for step in trainer.recorder.steps)


def test_hints_that_do_not_tell_the_better_completions_are_named_once(checkpoint, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(hint_monitor, "_ENOUGH", 1)
    options = RULE | {"reward": first_letter_reward, "dataset": GOLD, "max_steps": 8}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    seen, update = [], trainer._hint_monitor.update
    trainer._hint_monitor.update = lambda *sums: seen.append(sums) or update(*sums)
    trainer.train()
    logged = [step.get("dgpo/hint/auroc") for step in trainer.recorder.steps]
    assert [wins / pairs if pairs else None for wins, pairs in seen] == logged
    assert min(share for share in logged if share is not None) < 0.6
    assert caplog.text.count("Hints do not tell the better completions: of the last") == 1
    assert "hint='gold'" in caplog.text


@pytest.mark.parametrize(("source", "control"), [("gold", "plain"), ("peer", "plain"), ("gold", "prompt")])
def test_the_log_holds_the_hint_and_what_it_said(checkpoint, tmp_path, source, control):
    """Of shuffled micro-batches; a completion without a hint says so and has no numbers of it."""
    options = RULE | {"hint": source, "reward": first_letter_reward, "dataset": GOLD, "max_steps": 2}
    options |= {"hint_control": control}
    options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "credit_log_steps": 1}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    seen, hints = rollouts_of(trainer), set()
    for step, (inputs, outputs) in zip(read_credit_log(tmp_path), seen, strict=True):
        keep = outputs["completion_mask"].bool()
        rows = {tuple(outputs["completion_ids"][row][keep[row]].tolist()): row for row in range(len(inputs))}
        assert len(step.completions) == len(inputs)
        for found in step.completions:
            row = rows[tuple(found.ids)]
            hint = expected_hint(inputs, outputs, row, source)
            if torch.is_tensor(hint):
                hint = trainer._tokenizer.decode(hint, skip_special_tokens=True)
            hints.add(found.hint)
            assert found.hint == (hint or "")
            assert found.control == (inputs[row]["prompt"] if hint and control == "prompt" else None)
            agreement = outputs[AGREEMENT][row].item() if hint else math.nan
            assert found.hint_agreement == (None if math.isnan(agreement) else pytest.approx(agreement, rel=1e-4))
            expected = {name: outputs[key][row][keep[row]].tolist() for name, key in COLUMNS.items() if hint}
            logged = {name: values for name, values in found.columns.items() if name in COLUMNS}
            assert logged == {name: pytest.approx(values, rel=1e-4) for name, values in expected.items()}
    assert "" in hints
    assert len(hints) > 1


def test_without_any_hint_it_is_grpo(checkpoint, tmp_path):
    empty = PLAIN.add_column("answer", [None] * len(PLAIN))
    options = {"reward": first_letter_reward, "dataset": empty}
    grpo = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path / "grpo", **options)
    ours = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path / "ours", **options, **RULE)
    for trainer in (grpo, ours):
        trainer.train()
    assert_same_training(ours, grpo)
    assert ours.recorder.steps[0]["dgpo/hint/share"] == 0
    assert "dgpo/hint/auroc" not in ours.recorder.steps[0]


def test_a_chat_is_hinted_in_its_last_user_message(checkpoint, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = TEMPLATE
    same = {"reward": first_letter_reward, "max_steps": 1, "tokenizer": tokenizer}
    chat, text = (
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, dataset=dataset, **same, **RULE)
        for dataset in (CHAT, GOLD)
    )
    (_, chat_outputs), (_, text_outputs) = rollouts_of(chat)[0], rollouts_of(text)[0]
    for key in COLUMNS.values():
        torch.testing.assert_close(chat_outputs[key], text_outputs[key])


def test_the_middle_of_a_long_hint_is_left_out(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, dataset=GOLD, hint_max_length=3, **RULE)
    assert cut_hint(trainer._tokenizer, "a b c", 3) == "a b c"
    assert cut_hint(trainer._tokenizer, "a b c d e", 3) == "a b [...] e"
    assert cut_hint(trainer._tokenizer, "a b c d e", 1) == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hint": "gold"}, r"hint='gold' is read by no credit rule: dgpo reads none.*Use credit_rule='hindsight'"),
        (RULE | {"hint_template": "{prompt}"}, r"hint_template='\{prompt\}' must contain \{hint\}"),
        (RULE | {"hint_max_length": 0}, r"hint_max_length is 0"),
        (RULE | {"hint_min_reward": "much"}, r"hint_min_reward is 'much'"),
        (RULE | {"hint": "solution"}, r"reads the column 'solution', and the data set has prompt.*hint='peer'"),
        (RULE | {"hint": "peer", "hint_control": "false"}, r"hint_control='false' reads .* hint_control='other'"),
        (RULE | {"hint_template": "{hint}", "hint_control": None}, r"hint_template='\{hint\}' makes .*a column of"),
        ({"hint_control": "plain"}, r"hint_control='plain' is read by no credit rule"),
        ({"hint_control": "other"}, r"hint_control='other' is read by no credit rule.*or leave hint_control out"),
        (
            RULE | {"hint": "peer", "hint_control": None, "per_device_train_batch_size": 4},
            r"a rollout has 4 completions, 4 of each\. Raise per_device_train_batch_size to 8, .* to 2; .*='plain'",
        ),
    ],
)
def test_what_is_refused(checkpoint, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
