"""Workers of one and two ranks against dense float64, and updates against verl's own."""

import json
from pathlib import Path

import pytest
import torch
from support import run_ranks

SGD = (
    *("actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=0.5"),
    *("actor_rollout_ref.actor.optim.weight_decay=0.0", "actor_rollout_ref.actor.optim.clip_grad=1e6"),
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
)
PADDED = ("actor_rollout_ref.model.use_remove_padding=False",)
DYNAMIC = (
    *("actor_rollout_ref.actor.use_dynamic_bsz=True", "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"),
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=32",
)
SMALL = (
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
)
LORA = ("actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8")
BF16 = tuple(f"actor_rollout_ref.{role}.fsdp_config.mixed_precision.param_dtype=bf16" for role in ("actor", "ref"))
HUGE_TAU = 1e30
LOSSES = ("vanilla", "gpg", "cispo", "sapo", "clip_cov", "kl_cov")
EACH_LOSS = {"steps": len(LOSSES), "losses": LOSSES, "epochs": 2}
SLOW = "actor_rollout_ref.actor.optim.lr=0.02"  # two of the losses choose tokens by a threshold, which rounding crosses
SKIPPING = {"steps": 4, "losses": LOSSES[:4], "tau": 1e-3, "epochs": 2, "score": False}
TIED = {"tie_word_embeddings": True}
# Several tiles of the vocabulary, and a head that is small beside the logits of a batch.
WIDE = {"vocab_size": 16384, "hidden_size": 16, "intermediate_size": 16}

CASES = {
    "remove-padding": {"overrides": SMALL, "steps": 3, "noise": 0.02},
    "padded": {"overrides": PADDED, "temperature": 0.7},
    "dynamic": {"overrides": DYNAMIC},
    "lora": {"overrides": (*SMALL, *LORA), "noise": 0.3},
    "tied": {"overrides": SMALL, "model": TIED},
    "bf16": {"overrides": (*SMALL, *BF16)},
    "wide": {"model": WIDE, "score": False, "storages": True},
    "wide-verl": {"model": WIDE, "dgpo": False, "storages": True},
    "lora-verl": {"overrides": (*SGD, *SMALL, *LORA), "dgpo": False, "steps": 3},
    "tied-verl": {"overrides": (*SGD, *SMALL), "model": TIED, "dgpo": False, "steps": 3},
    "tied-even": {"overrides": (*SGD, *SMALL), "model": TIED, "score": False, "steps": 3, "tau": HUGE_TAU},
    "lora-even": {"overrides": (*SGD, *SMALL, *LORA), "score": False, "steps": 3, "tau": HUGE_TAU},
    "verl-grpo": {"overrides": (*SGD, *SMALL), "dgpo": False, "steps": 3},
    "even-weights": {"overrides": (*SGD, *SMALL), "score": False, "steps": 3, "tau": HUGE_TAU},
    "entropy-verl": {
        "overrides": (*SGD, *PADDED, "actor_rollout_ref.actor.entropy_coeff=0.1"),
        **{"dgpo": False, "steps": 3, "temperature": 0.7},
    },
    "entropy-even": {
        "overrides": (*SGD, *PADDED, "actor_rollout_ref.actor.entropy_coeff=0.1"),
        **{"score": False, "steps": 3, "temperature": 0.7, "tau": HUGE_TAU},
    },
    "even-rule": {"overrides": (*SGD, *SMALL), "score": False, "steps": 3, "rule": "even"},
    "uneven-weights": {"overrides": (*SGD, *SMALL), "score": False, "steps": 3, "tau": 1e-3},
    "losses-verl": {"overrides": (*SGD, *SMALL, SLOW), "dgpo": False, **EACH_LOSS},
    "losses-even": {"overrides": (*SGD, *SMALL, SLOW), "rule": "even", "score": False, **EACH_LOSS},
    "skip": {"overrides": (*SGD, *SMALL), "skips": True, **SKIPPING},
    "skip-not": {"overrides": (*SGD, *SMALL), "skips": False, **SKIPPING},
    "skip-lora": {"overrides": (*SGD, *LORA, *DYNAMIC), "skips": True, **SKIPPING},
    "skip-not-lora": {"overrides": (*SGD, *LORA, *DYNAMIC), "skips": False, **SKIPPING},
}
SCORED = ("remove-padding", "padded", "dynamic", "lora", "tied")
ON_TWO_RANKS = (
    *(*SCORED, "bf16", "wide", "verl-grpo", "even-weights", "uneven-weights"),
    *("lora-verl", "lora-even", "even-rule", "skip", "skip-not"),
)


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """Figures of every case by number of ranks, and the folder with scores and parameters."""
    folder = tmp_path_factory.mktemp("workers")
    cases = {1: CASES, 2: {name: CASES[name] for name in ON_TWO_RANKS}}
    figures = {n: run_ranks("rank.py", model, json.dumps(cases[n]), str(folder), ranks=n) for n in cases}
    return figures, folder


def parameters(folder: Path, case: str, ranks: int):
    return torch.load(folder / f"rank0-of-{ranks}" / f"{case}-parameters.pt")


def scores(folder: Path, case: str, ranks: int):
    """Rows of all ranks, in order."""
    parts = [torch.load(folder / f"rank{rank}-of-{ranks}" / f"{case}-scores.pt") for rank in range(ranks)]
    return {name: [row for part in parts for row in part[name]] for name in parts[0]}


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", SCORED)
def test_what_a_hinted_reference_thinks_equals_dense_float64(runs, case, ranks):
    """The policy has moved away from the reference, and has no part in it."""
    for of_rank in runs[0][ranks]:
        errors = of_rank[case]["hindsight"]
        assert errors["hindsight_hellinger_sq"] <= 1e-6
        assert errors["hindsight_log_ratio"] <= 1e-5
        assert errors["largest"] > 1e-3  # the hints said something


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", SCORED)
def test_statistics_equal_dense_float64(runs, case, ranks):
    for of_rank in runs[0][ranks]:
        errors = of_rank[case]
        assert errors["hellinger_sq"] <= 1e-6
        assert max(errors[name] for name in ("log_probs", "entropy", "ref_log_probs")) <= 1e-5
        low, high = errors["d_range"]
        assert high > 1e-3  # there was a distance to measure
        assert low >= 0


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", [*SCORED, "bf16"])
def test_an_untrained_policy_is_exactly_its_reference(runs, case, ranks):
    assert [of_rank[case]["d_at_start"] for of_rank in runs[0][ranks]] == [0.0] * ranks


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_head_of_a_reference_is_gathered_once_a_pass(runs, ranks):
    for of_rank in runs[0][ranks]:
        micro_batches = 8 // ranks // 2  # 8 rows, 2 a micro-batch
        assert of_rank["remove-padding"]["copies"] == 1
        assert of_rank["remove-padding"]["bypassed"] == micro_batches - 1  # all but the first
        assert of_rank["lora"]["copies"] == 0
        assert of_rank["lora"]["bypassed"] == micro_batches


@pytest.mark.parametrize("ranks", [1, 2])
def test_statistics_in_bf16_are_those_of_float64_but_for_its_rounding(runs, ranks):
    for of_rank in runs[0][ranks]:
        errors = of_rank["bf16"]
        low, _ = errors["d_range"]
        assert errors["hellinger_sq"] <= low / 20
        assert errors["entropy"] <= 0.003
        # Half of a step between neighbours is 0.008 where a logit is between 2 and 4.
        assert max(errors["log_probs"], errors["ref_log_probs"]) <= 0.03


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_tensor_is_as_large_as_the_logits(runs, ranks):
    for of_rank in runs[0][ranks]:
        sizes = of_rank["wide"]
        for part in ("scoring", "step"):
            assert sizes["head"] <= sizes[part] < sizes["logits"]  # the head was seen


def test_the_storages_of_verls_own_engine_include_the_logits(runs):
    (of_rank,) = runs[0][1]
    sizes = of_rank["wide-verl"]
    assert min(sizes["scoring"], sizes["step"]) >= sizes["logits"]


@pytest.mark.parametrize("case", SCORED)
def test_two_ranks_give_the_statistics_of_one(runs, case):
    one, two = (scores(runs[1], case, ranks) for ranks in (1, 2))
    for name in one:
        for left, right in zip(one[name], two[name], strict=True):
            torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("dgpo", "verl", "ranks"),
    [
        *(("even-weights", "verl-grpo", 1), ("even-weights", "verl-grpo", 2), ("entropy-even", "entropy-verl", 1)),
        *(("lora-even", "lora-verl", 1), ("lora-even", "lora-verl", 2), ("tied-even", "tied-verl", 1)),
        *(("even-rule", "verl-grpo", 1), ("even-rule", "verl-grpo", 2), ("losses-even", "losses-verl", 1)),
    ],
)
def test_even_weights_give_the_parameters_of_verls_own_grpo(runs, dgpo, verl, ranks):
    """After 3 steps of SGD without clipping: Adam would hide a wrong normaliser of the loss."""
    ours, theirs = (parameters(runs[1], case, ranks) for case in (dgpo, verl))
    assert largest_difference(ours, theirs) <= 2e-6
    untrained = [value for name, value in theirs.items() if "lora_B" in name and not value.any()]
    assert not untrained  # they start at 0


def test_a_reference_is_built_where_the_rule_reads_it(runs):
    (figures,) = runs[0][1]
    assert figures["even-weights"]["has_reference"]
    assert not figures["even-rule"]["has_reference"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_other_weights_give_other_parameters(runs, ranks):
    """Were the weights lost on the way, the test above would pass all the same."""
    ours, theirs = (parameters(runs[1], case, ranks) for case in ("uneven-weights", "verl-grpo"))
    assert largest_difference(ours, theirs) >= 1e-4


@pytest.mark.parametrize("case", ["even-weights", "uneven-weights"])
def test_two_ranks_train_the_parameters_of_one(runs, case):
    one, two = (parameters(runs[1], case, ranks) for ranks in (1, 2))
    assert largest_difference(one, two) <= 2e-6


@pytest.mark.parametrize(
    ("skip", "full", "ranks"), [("skip", "skip-not", 1), ("skip", "skip-not", 2), ("skip-lora", "skip-not-lora", 1)]
)
def test_completions_without_advantage_are_left_out_of_the_update_and_the_parameters_stay(runs, skip, full, ranks):
    """A step each of verl's losses that they may be left out of, one of them without any advantage at all."""
    figures, folder = runs
    # Two last bits of a weight near 1 (of the norms), after 8 updates with a learning rate of 0.5.
    assert largest_difference(parameters(folder, skip, ranks), parameters(folder, full, ranks)) <= 2.4e-7
    tokens = [[of_rank[case]["tokens"] for of_rank in figures[ranks]] for case in (skip, full)]
    assert sum(tokens[0]) <= 0.6 * sum(tokens[1])
    assert min(tokens[0]) > 0
