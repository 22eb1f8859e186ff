"""Which completions are logged, and that what was not computed is left out of them."""

from types import SimpleNamespace

import pytest
import torch
from batches import KEYS, LENGTHS, batch, nested, stats_of
from omegaconf import OmegaConf
from support import HERE

import verl  # noqa: F401  isort: skip
from dgpo.core import assign_credit
from dgpo.credit_log import CompletionCredit, read_credit_log
from dgpo.engines.verl import credit_logging
from dgpo.engines.verl.config import DGPOSettings

SIGNED = f"{HERE / 'credit_rules.py'}:signed_share"
REFERENCE = {"hellinger_sq", "ref_logps", "scores"}
ALWAYS = {"entropy", "logps"}


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
        assert select_fields == ["prompts", "responses"]
        ids = [torch.arange(LENGTHS[row]) for row in rows]
        return {"prompts": nested([[7, 8]] * len(rows)), "responses": nested(ids)}

    monkeypatch.setattr(credit_logging, "collect_completion", collect)
    monkeypatch.setattr(credit_logging.tq, "kv_batch_get", kv_batch_get)

    def log(rule, data, count=8):
        settings = DGPOSettings(credit_rule=rule, credit_log_steps=1, credit_log_completions=count)
        rollout = {"temperature": 0.7, "response_length": 4}
        config = {"actor_rollout_ref": {"rollout": rollout}, "trainer": {"default_local_dir": str(tmp_path)}}
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
    assert [completion.ids for completion in step.completions] == [[0, 1, 2], [0, 1], [0, 1, 2, 3]]
    assert [completion["advantage"] for completion in given] == [1.0, -0.5, -1.0]
    assert [completion["reward"] for completion in given] == [1.0, 0.5, 0.0]
    assert [completion["group"] for completion in given] == [0, 1, 0]
    assert [completion["truncated"] for completion in given] == [False, False, True]
    assert given[2]["trained"].tolist() == [True, False, True, True]
    assert given[0]["per_token"].keys() == ALWAYS | REFERENCE | {"weights"}
    assert all(len(values) == 4 for values in given[2]["per_token"].values())


def test_rows_are_spread_over_the_batch(logged):
    _, given = logged("dgpo", batch(), count=2)
    assert [completion["advantage"] for completion in given] == [1.0, -0.5]


def test_without_a_reference_its_columns_are_left_out(logged):
    data = batch()
    del data["hellinger_sq"], data["ref_log_probs"]
    _, given = logged("even", data)
    assert given[0]["per_token"].keys() == ALWAYS | {"weights"}


def test_a_signed_rule_gives_token_advantages_in_place_of_weights(logged):
    _, given = logged(SIGNED, batch())
    assert given[0]["per_token"].keys() == ALWAYS | REFERENCE | {"token_advantages"}
    assert given[0]["per_token"]["token_advantages"].tolist() == [-1.0, 2.0, 2.0]
