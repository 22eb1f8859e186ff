"""Which hint a completion of verl's has, and the sequence that the reference is shown."""

from types import SimpleNamespace

import pytest
import torch
from batches import jagged
from omegaconf import OmegaConf
from support import compose_config
from transfer_queue import KVBatchMeta
from transformers import AutoTokenizer

import verl  # noqa: F401  isort: skip
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from dgpo.core import HINDSIGHT_STATS
from dgpo.credit_log.answers import texts_as_text
from dgpo.engines.verl import hints as module
from dgpo.engines.verl import queue
from dgpo.engines.verl.checks import check_config
from dgpo.engines.verl.config import read_settings
from dgpo.engines.verl.hindsight import COMPARED_IDS, HINT_PASS, HINTED_IDS, response_positions
from dgpo.engines.verl.trainer import CreditStages
from dgpo.errors import ConfigError, TrainingError

PLAIN = "+algorithm.dgpo.hint_control=plain"
TEXTS = ("what is 1 + 2 ?", "what is 3 + 4 ?")
KEYS = ("a_0_0", "b_0_0", "a_1_0", "a_2_0", "pad_0_0")
ANSWERS = ("3", "1 2", "3", "1", "?")
REWARDS = (1.0, 1.0, 1.0, 0.0, 9.0)


@pytest.fixture
def put(model, monkeypatch):
    """Stores the hints of two prompts with three completions and one, and a row of padding."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids_of(text):
        message = [{"role": "user", "content": text}]
        return torch.tensor(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))

    def put(*overrides, prompts=(TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0], TEXTS[0])):
        config = compose_config("+algorithm.dgpo.rule=hindsight", *overrides)
        responses = [torch.tensor(tokenizer(text)["input_ids"]) for text in ANSWERS]
        prompt_ids = [ids_of(text) for text in prompts]
        data = {
            "prompts": jagged(prompt_ids),
            "responses": jagged(responses),
            "input_ids": jagged(torch.cat(parts) for parts in zip(prompt_ids, responses, strict=True)),
            "rm_scores": jagged(
                torch.tensor([0.0, reward])[-len(r) :] for reward, r in zip(REWARDS, responses, strict=False)
            ),
        }
        rows = [
            {
                "raw_prompt": [{"role": "user", "content": TEXTS[key[0] == "b"]}],
                "reward_model": {"ground_truth": index + 7},
                "extra_info": {"way": "1 +" if index else None},
                "input_ids": torch.ones(1),
            }
            for index, key in enumerate(KEYS)
        ]
        values = list_of_dict_to_tensordict(rows)
        stored = {}

        def kv_batch_get(keys, partition_id, select_fields):
            return data if "input_ids" in select_fields or "responses" in select_fields else values

        monkeypatch.setattr(queue.tq, "kv_batch_get", kv_batch_get)
        monkeypatch.setattr(queue.tq, "kv_batch_put", lambda keys, partition_id, fields: stored.update(fields))
        tags = [{}, {}, {}, {}, {"is_padding": True}]
        batch = KVBatchMeta(keys=list(KEYS), tags=tags, partition_id="train")
        found = module.Hints(config, tokenizer, read_settings(config))
        shown, lengths = found.put(batch)
        sequences = stored[HINTED_IDS].unbind()
        compared = stored[COMPARED_IDS].unbind()
        assert lengths == [max(map(len, pair)) for pair in zip(sequences, compared, strict=True)]
        for row, sequence in enumerate(sequences):  # the response is what was sampled
            assert sequence[-len(responses[row]) :].tolist() == responses[row].tolist()
            assert compared[row][-len(responses[row]) :].tolist() == responses[row].tolist()
            for one in (sequence, compared[row]):
                assert shown[row] or one.tolist() == data["input_ids"].unbind()[row].tolist()
        if read_settings(config).hint_control == "plain":
            assert [one.tolist() for one in compared] == [one.tolist() for one in data["input_ids"].unbind()]
        told, others = ([tokenizer.decode(sequence) for sequence in made] for made in (sequences, compared))
        controls = texts_as_text(stored[module.CONTROL])
        is_plain = read_settings(config).hint_control == "plain"
        for control, is_shown, text in zip(controls, shown, others, strict=True):
            assert control in text if is_shown and not is_plain else control is None
        return shown, texts_as_text(stored[module.HINT]), told, others

    return put


def test_the_gold_answer_is_shown_in_the_users_message(put):
    shown, hints, told, _ = put("+algorithm.dgpo.hint_template='{hint} or {prompt}'", PLAIN)
    assert shown == [True] * 4 + [False]
    assert hints == ["7", "8", "9", "10", ""]
    assert told[1] == "<|im_start|>user\n8 or what is 3 + 4 ?<|im_end|>\n<|im_start|>assistant\n1 2"


def test_an_entry_of_extra_info_is_shown_where_a_row_has_it(put):
    _, hints, told, _ = put("+algorithm.dgpo.hint=way", "+algorithm.dgpo.hint_max_length=1", PLAIN)
    assert hints == ["", "1", "1", "1", ""]  # and the middle of a longer one is left out
    assert told[1].startswith("<|im_start|>user\nHint: the answer to the following problem is 1\n\nwhat is 3")


def test_a_right_sibling_is_shown_and_never_the_completion_itself_or_padding(put):
    _, hints, told, _ = put("+algorithm.dgpo.hint=peer", PLAIN)
    assert hints == ["3", "", "3", "3", ""]
    assert "Hint: a correct solution of the following problem is:\n3\n\nwhat is 1" in told[3]


@pytest.mark.parametrize("control", [(), ("+algorithm.dgpo.hint_control=other",)], ids=["by default", "asked for"])
def test_a_hint_is_compared_with_that_of_another_prompt(put, control):
    template = "+algorithm.dgpo.hint_template='{hint} or {prompt}'"
    shown, hints, told, compared = put(template, *control)
    assert shown == [True] * 4 + [False]
    assert hints == ["7", "8", "9", "10", ""]
    assert [one.split("\n")[1].partition(" or ")[0] for one in told[:4]] == ["7", "8", "9", "10"]
    assert [one.split("\n")[1].partition(" or ")[0] for one in compared[:4]] == ["8", "9", "8", "8"]
    assert all(
        one.partition(" or ")[2] == other.partition(" or ")[2] for one, other in zip(told, compared, strict=True)
    )


def test_a_hint_is_compared_with_an_entry_of_extra_info_and_without_one_there_is_none(put):
    shown, hints, _, compared = put("+algorithm.dgpo.hint_control=way")
    assert shown == [False, True, True, True, False]
    assert hints == ["", "8", "9", "10", ""]
    assert "the answer to the following problem is 1 +\n\nwhat is 3" in compared[1]


def test_where_no_other_prompt_has_a_hint_there_is_none_and_the_run_goes_on(put):
    peer = "+algorithm.dgpo.hint=peer"
    shown, hints, _, _ = put(peer, "+algorithm.dgpo.hint_control=other")  # the right siblings are all of one prompt
    assert shown == [False] * 5
    assert set(hints) == {""}


def test_a_prompt_that_was_made_otherwise_has_no_hint_and_where_all_are_the_run_stops(put):
    shown, hints, _, _ = put(prompts=(TEXTS[0], TEXTS[0], *TEXTS, TEXTS[0]))
    assert shown == [True, False, True, False, False]
    assert hints == ["7", "", "9", "", ""]
    with pytest.raises(TrainingError, match=r"No prompt of this batch is what the chat template makes .*tools"):
        put(prompts=("something else",) * len(KEYS))


def test_a_sequence_that_has_no_room_in_a_micro_batch_stops_the_run(put):
    dynamic = "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"
    with pytest.raises(TrainingError, match=r"log_prob_max_token_len_per_gpu=20.*hint_max_length=512"):
        put(dynamic, "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=20")


@pytest.mark.parametrize(
    ("hint", "row", "message"),
    [
        ("gold", {"reward_model": {"style": "rule"}}, r"reads reward_model\.ground_truth.*reward_model holds style"),
        (
            "way",
            {"extra_info": {"index": 0}},
            r"'way' reads extra_info\.way .*extra_info holds index\. Use 'gold'",
        ),
        ("way", {}, r"extra_info is not there"),
        ("peer", {"extra_info": {}}, r"hint_control='no' reads extra_info\.no .*or 'other' for the hint of another"),
    ],
)
def test_a_data_set_without_the_hints_is_refused(hint, row, message):
    control = ["+algorithm.dgpo.hint_control=no"] if hint == "peer" else []
    config = compose_config("+algorithm.dgpo.rule=hindsight", f"+algorithm.dgpo.hint={hint}", *control)
    with pytest.raises(ConfigError, match=message):
        module.Hints(config, None, read_settings(config)).check_dataset(row)


def test_a_batch_of_one_prompt_has_nothing_to_compare_a_hint_with():
    one = ("+algorithm.dgpo.rule=hindsight", "data.train_batch_size=1")
    with pytest.raises(ConfigError, match=r"hint_control='other', the default, .*train_batch_size=1\. Raise .*'plain'"):
        check_config(compose_config(*one))
    check_config(compose_config(*one, PLAIN))


@pytest.mark.parametrize("control", [[], [PLAIN]], ids=["by default", "plain"])
def test_no_column_is_asked_for_where_the_control_is_none(control):
    config = compose_config("+algorithm.dgpo.rule=hindsight", *control)
    module.Hints(config, None, read_settings(config)).check_dataset({"reward_model": {"ground_truth": "7"}})


def test_places_of_responses_in_padded_and_packed_inputs():
    sequences, responses = jagged([torch.arange(4), torch.arange(3)]), jagged([torch.arange(2), torch.arange(1)])
    packed = {"input_ids": torch.zeros(1, 8, dtype=torch.long), "attention_mask": None}  # one more than there are
    assert response_positions(packed, sequences, responses).nonzero()[:, 1].tolist() == [1, 2, 5]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    padded = {"input_ids": torch.zeros(2, 4, dtype=torch.long), "attention_mask": mask}
    expected = [[False, True, True, False], [False, True, False, False]]
    assert response_positions(padded, sequences, responses).tolist() == expected


def test_the_pass_is_made_for_whole_micro_batches_and_those_without_a_hint_keep_0(monkeypatch):
    """Of five completions two have a hint; a third one fills the micro-batches of three up, and its numbers are 0."""
    sent, stored = [], {}

    def kv_batch_get(keys, partition_id, select_fields):
        return {"response_mask": jagged(torch.ones(2 + row) for row in range(len(keys)))}

    def kv_batch_put(keys, partition_id, fields):
        stored[tuple(keys)] = fields

    monkeypatch.setattr(queue.tq, "kv_batch_get", kv_batch_get)
    monkeypatch.setattr(queue.tq, "kv_batch_put", kv_batch_put)
    rollout = {"log_prob_use_dynamic_bsz": False, "log_prob_micro_batch_size_per_gpu": 3, "temperature": 0.7}
    stages = SimpleNamespace(
        config=OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}}),
        actor_rollout_wg=SimpleNamespace(_dispatch_info={"actor": [0]}, compute_log_prob=sent.append),
    )
    stages._with_others = lambda *rows: CreditStages._with_others(stages, *rows)
    batch = KVBatchMeta(keys=list(KEYS), tags=[{}] * 5, partition_id="train", fields=["prompts"], extra_info={"a": 1})
    hints = SimpleNamespace(put=lambda batch: ([True, False, False, True, False], [9, 5, 4, 9, 7]))
    CreditStages._score_hinted(stages, batch, hints)
    (part,) = sent
    assert set(part.keys) == {KEYS[0], KEYS[3], KEYS[2]}
    assert set(part.fields) == {"input_ids", "responses", "loss_mask", HINTED_IDS, COMPARED_IDS}
    assert part.extra_info == {"a": 1, HINT_PASS: True, "compute_loss": False, "temperature": 0.7}
    assert (batch.fields, batch.extra_info) == (["prompts"], {"a": 1})  # as the passes after it find them
    ((keys, zeros),) = stored.items()
    assert keys == (KEYS[1], KEYS[2], KEYS[4])
    assert set(zeros.keys()) == set(HINDSIGHT_STATS)
    assert all((zeros[name].values() == 0).all() for name in HINDSIGHT_STATS)
    hints.put = lambda batch: ([False] * 5, [5] * 5)
    sent.clear()
    CreditStages._score_hinted(stages, batch, hints)
    assert sent == []
