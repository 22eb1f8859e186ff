"""Which completions are left out, and what stands in their place."""

import copy
from types import SimpleNamespace

import pytest
import torch
from batches import nested
from omegaconf import OmegaConf
from support import compose_config
from tensordict import TensorDict

from dgpo.engines.verl.config import read_settings
from dgpo.engines.verl.live import leave_out, readers_in_scoring, readers_in_update, rows_to_score

ACTOR = "actor_rollout_ref.actor"
LENGTHS = [5, 3, 9, 7, 4, 2]


def rows(live, *, is_padding=(), ranks=1, multiple=1):
    live = [row in live for row in range(len(LENGTHS))]
    padding = [row in is_padding for row in range(len(LENGTHS))]
    return rows_to_score(live, LENGTHS, padding, ranks=ranks, multiple=multiple)


def test_rows_with_an_advantage_are_scored_and_the_shortest_others_fill_micro_batches_up():
    assert sorted(rows({0, 2})) == [0, 2]
    assert sorted(rows({0, 2}, multiple=3)) == [0, 2, 5]
    assert sorted(rows({0, 2}, multiple=3, is_padding={5})) == [0, 1, 2]  # padding has nothing to measure
    assert rows({0, 2, 3, 4}, multiple=3) == [0, 1, 2, 3, 4, 5]  # in verl's order where nothing is left out
    assert rows(set(), multiple=2) == [1, 5]


def test_ranks_get_parts_of_similar_length():
    parts = rows({0, 2, 3, 4}, ranks=2, multiple=2)
    assert sorted(parts) == [0, 2, 3, 4]
    assert sorted(sum(LENGTHS[row] for row in part) for part in (parts[:2], parts[2:])) == [12, 13]


def micro_batch(advantages):
    return TensorDict(
        {
            "input_ids": nested([[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]),
            "old_log_probs": nested([[-1.0, -2.0], [-3.0], [-4.0, -5.0, -6.0]]),
            "advantages": nested(advantages),
        },
        batch_size=3,
    )


def test_the_loss_sees_all_rows_and_the_log_probabilities_that_sampled_where_none_were_computed():
    batch = micro_batch([[0.0, 0.0], [0.0], [0.0, 0.5, 0.0]])
    part, loss = leave_out(batch, lambda **given: SimpleNamespace(**given))
    assert [row.tolist() for row in part["input_ids"].unbind()] == [[8, 9, 10, 11, 12]]
    computed = torch.full((5,), -0.1, requires_grad=True)
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(computed, part["input_ids"].offsets())}
    seen = loss(model_output=output, data=part, dp_group=None)
    assert seen.data is batch
    log_probs = [row.tolist() for row in seen.model_output["log_probs"].unbind()]
    # A value stands one place before its token: the last two tokens of four are the first response.
    assert log_probs[:2] == [[0.0, -1.0, -2.0, 0.0], [0.0, -3.0, 0.0]]
    assert log_probs[2] == pytest.approx([-0.1] * 5)
    seen.model_output["log_probs"].values().sum().backward()
    assert computed.grad.tolist() == [1.0] * 5


def test_of_a_micro_batch_without_advantage_the_shortest_row_is_computed_and_of_a_full_one_all_are():
    part, _ = leave_out(micro_batch([[0.0, 0.0], [0.0], [0.0, 0.0, 0.0]]), len)
    assert [row.tolist() for row in part["input_ids"].unbind()] == [[5, 6, 7]]
    full = micro_batch([[1.0, 1.0], [2.0], [0.0, 0.0, 3.0]])
    part, loss = leave_out(full, len)
    assert (part is full, loss is len) == (True, True)


@pytest.fixture(scope="module")
def composed():
    return compose_config()


@pytest.mark.parametrize(
    ("key", "value", "in_update", "in_scoring"),
    [
        ("trainer.device", "cpu", False, False),
        ("algorithm.dgpo.skip_zero_advantage", False, True, True),
        (f"{ACTOR}.use_kl_loss", True, True, True),
        (f"{ACTOR}.entropy_coeff", 0.1, True, True),
        (f"{ACTOR}.calculate_entropy", True, True, True),
        (f"{ACTOR}.policy_loss.loss_mode", "clip_cov", True, True),
        (f"{ACTOR}.policy_loss.loss_mode", "cispo", False, False),
        ("algorithm.use_kl_in_reward", True, False, True),
        ("actor_rollout_ref.rollout.calculate_log_probs", True, False, True),
        ("algorithm.dgpo.rule", "gtpo", False, True),
        ("algorithm.dgpo.rule", "even", False, False),
    ],
)
def test_nothing_is_left_out_that_something_reads(composed, key, value, in_update, in_scoring):
    config = copy.deepcopy(composed)
    OmegaConf.update(config, key, value, force_add=True)
    settings = read_settings(config)
    readers = readers_in_update(config, settings), readers_in_scoring(config, settings)
    assert (bool(readers[0]), bool(readers[1])) == (in_update, in_scoring)
