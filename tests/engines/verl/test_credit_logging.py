"""Which completions are logged, and that what was not computed is left out of them."""

from types import SimpleNamespace

import pytest
import torch
from batches import KEYS, LENGTHS, batch, nested, stats_of
from omegaconf import OmegaConf
from support import HERE

import verl  # noqa: F401  isort: skip
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from dgpo.core import HINDSIGHT_STATS, assign_credit
from dgpo.credit_log import CompletionCredit, read_credit_log
from dgpo.credit_log.answers import texts_as_tensor
from dgpo.engines.verl import credit_logging, queue
from dgpo.engines.verl.config import DGPOSettings
from dgpo.engines.verl.hints import CONTROL, HINT

SIGNED = f"{HERE / 'credit_rules.py'}:signed_share"
REFERENCE = {"hellinger_sq", "ref_logps", "scores"}
ALWAYS = {"entropy", "logps"}


def stacked(name, values):
    """As verl puts them into its queue."""
    return list_of_dict_to_tensordict([{name: value, "input_ids": torch.ones(1)} for value in values])


@pytest.fixture
def logged(monkeypatch, tmp_path):
    """Logs a step of four rows, the last of them padding; returns the log's step and what each completion was given."""
    given = []

    def collect(tokenizer, ids, per_token, **more):
        given.append({"per_token": per_token, **more})
        empty = dict.fromkeys(("w", "d", "h", "s", "logp", "log_ratio"), [None] * len(ids))
        return CompletionCredit(prompt="", ids=ids.tolist(), tokens=[""] * len(ids), **empty)

    def kv_batch_get(keys, partition_id, select_fields):
        rows = [KEYS.index(key) for key in keys]
        (name, *more) = select_fields
        if name == "reward_model":
            if facts is None:
                raise ValueError("no such field")
            return stacked(name, [{"ground_truth": f"answer {row}", "style": "rule"} for row in rows])
        if name == "extra_fields":
            info = {"acc": True, "form": 0.5, "pred": "7"}
            return stacked(name, [{"reward_extra_info": info} if facts else {} for _ in rows])
        assert (name, more) == ("prompts", ["responses", HINT, CONTROL])
        ids = [torch.arange(LENGTHS[row]) for row in rows]
        said = {} if hints is None else {HINT: hints, CONTROL: [text and f"not {text}" for text in hints]}
        told = {name: nested(texts_as_tensor([each[row] for row in rows]).unbind()) for name, each in said.items()}
        return {"prompts": nested([[7, 8]] * len(rows)), "responses": nested(ids)} | told

    monkeypatch.setattr(credit_logging, "collect_completion", collect)
    monkeypatch.setattr(queue.tq, "kv_batch_get", kv_batch_get)

    facts, hints = True, None

    def log(rule, data, count=8, has_facts=True, eos_ids=(0,), has_hints=None):
        nonlocal facts, hints
        facts, hints = True if has_facts else None, has_hints
        monkeypatch.setattr(
            credit_logging,
            "get_generation_config",
            lambda path, trust_remote_code: SimpleNamespace(eos_token_id=list(eos_ids)),
        )
        settings = DGPOSettings(credit_rule=rule, credit_log_steps=1, credit_log_completions=count)
        rollout = {"temperature": 0.7, "response_length": 4}
        model = {"path": "model"}
        config = {
            "actor_rollout_ref": {"rollout": rollout, "model": model},
            "trainer": {"default_local_dir": str(tmp_path)},
        }
        logging = credit_logging.CreditLogging(
            OmegaConf.create(config), SimpleNamespace(eos_token_id=0), settings, vocab_size=8
        )
        tags = [{}, {}, {}, {"is_padding": True}]
        stats = stats_of(data)
        rows = SimpleNamespace(keys=list(KEYS), tags=tags, partition_id="train")
        logging.log(rows, 1, stats, assign_credit(stats, settings.rule))
        (step,) = read_credit_log(tmp_path)
        return step, given

    return log


def test_real_rows_alone_are_logged_with_the_rule_in_the_header(logged):
    step, given = logged("capped", batch())
    assert step.header["rule"] == "capped"
    assert step.header["options"] == {"tau": 0.5, "kappa": 1.0, "cap": 2.0}
    assert (step.header["temperature"], step.header["out_of"]) == (0.7, 3)
    assert [completion.ids for completion in step.completions] == [[0, 1, 2], [0, 1, 2, 3], [0, 1]]
    assert [completion["advantage"] for completion in given] == [1.0, -1.0, -0.5]
    assert [completion["reward"] for completion in given] == [1.0, 0.0, 0.5]
    assert [completion["group"] for completion in given] == [0, 0, 1]
    assert given[1]["trained"].tolist() == [True, False, True, True]
    assert given[0]["per_token"].keys() == ALWAYS | REFERENCE | {"weights"}
    assert all(len(values) == 4 for values in given[1]["per_token"].values())


def test_the_completions_of_a_prompt_stay_together(logged):
    _, given = logged("dgpo", batch(), count=2)
    assert [completion["advantage"] for completion in given] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("eos_ids", "reasons"),
    [((0,), [None, "length", None]), ((1, 2), ["eos", "length", "eos"]), ((3,), [None, "eos", None])],
)
def test_any_end_of_sequence_token_ends_a_response(logged, eos_ids, reasons):
    """Responses end with tokens 2, 3 and 1; the second one is as long as a response may be."""
    _, given = logged("dgpo", batch(), eos_ids=eos_ids)
    assert [completion["ended"] for completion in given] == reasons


def test_answers_and_the_numbers_of_a_reward_function_are_logged(logged):
    _, given = logged("dgpo", batch())
    assert [completion["answer"] for completion in given] == ["answer 0", "answer 2", "answer 1"]
    assert given[2]["rewards"] == {"reward": 0.5, "acc": 1.0, "form": 0.5}


def test_what_verl_does_not_hold_is_left_out(logged):
    step, given = logged("dgpo", batch(), has_facts=False)
    assert len(step.completions) == 3
    assert [completion["answer"] for completion in given] == [None] * 3
    assert given[2]["rewards"] == {"reward": 0.5}


def test_columns_of_a_rule_are_logged(logged):
    _, given = logged(f"{HERE / 'credit_rules.py'}:with_columns", batch())
    assert given[1]["per_token"]["place"].tolist() == [1.0, 0.0, 3.0, 4.0]


def test_hints_are_logged_with_what_they_said(logged):
    values = [[0.25] * LENGTHS[0], *([0.5] * length for length in LENGTHS[1:])]
    said = {name: nested(values) for name in HINDSIGHT_STATS}
    _, given = logged("hindsight", batch(**said), has_hints=["42", "", "a b", ""])
    assert [completion["hint"] for completion in given] == ["42", "a b", ""]
    assert [completion["control"] for completion in given] == ["not 42", "not a b", ""]
    assert given[1]["per_token"].keys() >= set(HINDSIGHT_STATS)
    assert given[1]["per_token"]["hindsight_log_ratio"].tolist() == [0.5] * 4
    # The better one of the two of a prompt is the first one, which the hint makes less likely than the other.
    assert [completion["hint_agreement"] for completion in given] == [0.0, 0.0, None]
    assert logged("dgpo", batch())[1][-1]["hint"] is None


def test_without_a_reference_its_columns_are_left_out(logged):
    data = batch()
    del data["hellinger_sq"], data["ref_log_probs"]
    _, given = logged("even", data)
    assert given[0]["per_token"].keys() == ALWAYS | {"weights"}


def test_a_signed_rule_gives_token_advantages_in_place_of_weights(logged):
    _, given = logged(SIGNED, batch())
    assert given[0]["per_token"].keys() == ALWAYS | REFERENCE | {"token_advantages"}
    assert given[0]["per_token"]["token_advantages"].tolist() == [-1.0, 2.0, 2.0]
