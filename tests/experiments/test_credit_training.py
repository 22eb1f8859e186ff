"""Stacked seeds are independent, and the update is that of `DGPOTrainer`."""

import dataclasses
import json

import pytest
import torch

from dgpo import TokenStats, assign_credit
from experiments.credit import cells, layout, measure
from experiments.credit.layout import Layout
from experiments.credit.model import Shape, completion_logits, initial_parameters, sample
from experiments.credit.oracles import CreditArm, OracleStats
from experiments.credit.rules import ARMS
from experiments.credit.train import clip_each_seed, described, policy_loss, token_stats, train
from experiments.credit.variants import Variant, WarmUp

SHAPE = Shape(vocab_size=layout.VOCAB_SIZE, num_positions=40, hidden_size=16)
IDS = torch.randint(3, layout.VOCAB_SIZE, (3, 4, 12), generator=torch.Generator().manual_seed(0))
TINY = Variant(
    "", WarmUp(Layout(2), steps=30, batch_size=8, hidden_size=16), num_prompts=3, num_generations=4, num_rollouts=5
)


def slice_of(parameters, index):
    return {name: value[index : index + 1] for name, value in parameters.items()}


def spoken(parameters, uniforms, prompts, eos=layout.EOS):
    return sample(parameters, prompts, uniforms, num_generations=2, length=9, eos=eos, pad=layout.PAD)


def test_a_seed_in_a_stack_computes_what_it_computes_alone():
    parameters = initial_parameters(SHAPE, [3, 4, 5])
    alone = initial_parameters(SHAPE, [4])
    assert all(torch.equal(alone[name], parameters[name][1:2]) for name in alone)
    together = completion_logits(parameters, IDS[..., :5], IDS[..., 5:])
    single = completion_logits(alone, IDS[1:2, :, :5], IDS[1:2, :, 5:])
    assert torch.allclose(together[1:2], single, atol=1e-5)
    uniforms = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spoken(parameters, uniforms, IDS[..., :5])[1:2], spoken(alone, uniforms[1:2], IDS[1:2, :, :5]))


def test_sampling_follows_the_distributions_of_the_forward_pass():
    parameters = initial_parameters(SHAPE, [0, 1, 2])
    uniforms = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    prompts = IDS[..., :5]
    for luck in (uniforms, None):
        completions = spoken(parameters, luck, prompts)
        logits = completion_logits(parameters, prompts.repeat_interleave(2, 1), completions)
        expected = logits.argmax(-1) if luck is None else (logits.softmax(-1).cumsum(-1) <= luck[..., None]).sum(-1)
        mask = layout.trained_mask(completions)
        assert torch.equal(completions[mask], expected[mask])
        assert (completions[~mask] == layout.PAD).all()


def test_no_position_looks_ahead():
    parameters = initial_parameters(SHAPE, [0, 1, 2])
    changed = IDS.clone()
    changed[..., -2:] = 5
    before, after = (completion_logits(parameters, ids[..., :5], ids[..., 5:]) for ids in (IDS, changed))
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])


def test_gradients_are_clipped_seed_by_seed():
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 2, 2)}
    gradients = {"a": torch.randn(2, 3), "b": torch.randn(2, 2, 2) * torch.tensor([10.0, 0.01]).view(2, 1, 1)}
    gradients["a"][1] *= 0.01
    for name, value in parameters.items():
        value.grad = gradients[name].clone()
    norms = clip_each_seed(parameters)
    for seed in range(2):
        alone = [torch.zeros_like(value[seed]) for value in parameters.values()]
        for value, gradient in zip(alone, gradients.values(), strict=True):
            value.grad = gradient[seed].clone()
        assert torch.nn.utils.clip_grad_norm_(alone, 1.0) == pytest.approx(norms[seed].item(), rel=1e-5)
        for value, stack in zip(alone, parameters.values(), strict=True):
            assert torch.allclose(value.grad, stack.grad[seed], atol=1e-6)


def test_a_seed_is_trained_as_it_would_be_alone(tmp_path):
    arm = ARMS["dgpo tau=.1"]
    together = train(TINY, arm, [0, 1, 2], tmp_path, eval_prompts=4)
    alone = train(TINY, arm, [1], tmp_path, eval_prompts=4)[0]
    assert alone["rewards"] == together[1]["rewards"]
    assert alone["grad_norms"] == pytest.approx(together[1]["grad_norms"], rel=1e-3)
    assert alone["final"] == together[1]["final"]
    fresh = train(TINY, arm, [1], tmp_path / "again", eval_prompts=4)[0]
    assert fresh["grad_norms"] == pytest.approx(alone["grad_norms"], rel=1e-3)


@pytest.mark.parametrize("name", ARMS)
def test_every_rule_trains_to_finite_figures(name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "models"
    variant = dataclasses.replace(TINY, num_rollouts=2, num_updates=2, learning_rate=1e-2)
    record = train(variant, ARMS[name], [0], folder, eval_prompts=2)[0]
    assert len(record["rewards"]) == 2
    assert len(record["grad_norms"]) == 4
    assert all(norm == norm and norm < 1e3 for norm in record["grad_norms"])


RULE = """
from dgpo import credit_rule

@credit_rule(reads=(), signed=True)
def last_token(stats, *, size=1.0):
    mask = stats.completion_mask
    return size * stats.advantages[:, None] * (mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True)))
"""


def test_an_arm_may_be_any_rule_signed_ones_included(tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    path = f"{tmp_path / 'my_rules.py'}:last_token"
    arm, other = (CreditArm(path, {"size": size}) for size in (1.0, 2.0))
    assert arm.signed
    assert arm.digest() != other.digest()
    record = train(TINY, arm, [0], tmp_path, eval_prompts=2)[0]
    alone = train(TINY, CreditArm(arm.credit_rule.function), [0], tmp_path, eval_prompts=2)[0]
    assert json.dumps(record) == json.dumps(alone)
    # The last token alone is <eos> or the last digit, of which the style words get nothing.
    assert all(row["decoy"]["credit"] == 0 for row in record["credit"] if row["effective_share"] > 0)


def test_auroc_counts_pairs():
    scores, labels = torch.tensor([0.3, 0.1, 0.3, 0.8, 0.2]), torch.tensor([True, False, False, True, True])
    pairs = [
        (a, b)
        for a, one in zip(scores, labels, strict=True)
        if one
        for b, other in zip(scores, labels, strict=True)
        if not other
    ]
    expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert measure.auroc(scores, labels) == pytest.approx(expected)
    assert measure.auroc(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5


def rollout_with_credit():
    """A batch of completions in which some are right, and logits of a policy and its reference for it."""
    language = Layout(1)
    digits = torch.tensor([[[[3, 5]], [[8, 2]]]])
    shown = layout.demonstrations(language, digits[0].repeat_interleave(4, 0), 0.5, torch.Generator().manual_seed(3))
    rollout = described(language, layout.prompt_ids(digits), digits, shown[None], 4)
    assert 0 < rollout.rewards.sum() < 8
    torch.manual_seed(0)
    logits, ref_logits = torch.randn(2, 1, 8, language.length, layout.VOCAB_SIZE)
    return rollout, logits.requires_grad_(), ref_logits


def test_even_weights_are_grpo_written_out():
    rollout, logits, ref_logits = rollout_with_credit()
    (stats,) = token_stats(logits, ref_logits, rollout, None, 4)
    credit = assign_credit(stats, ARMS["grpo"].credit_rule)
    loss = policy_loss(logits, rollout, [stats.logps], [credit.token_advantages], ref_logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    groups = rollout.rewards.view(2, 4)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(1, 8, 1)
    logps = logits.log_softmax(-1).gather(-1, rollout.completions[..., None])[..., 0]
    plain = -(logps * advantages * rollout.mask).sum() / rollout.mask.sum()
    assert torch.allclose(gradient, torch.autograd.grad(plain, logits)[0], atol=1e-6)


def test_a_kl_penalty_pulls_towards_the_reference():
    rollout, logits, ref_logits = rollout_with_credit()
    (stats,) = token_stats(logits, ref_logits, rollout, None, 4)
    credit = assign_credit(stats, ARMS["grpo+kl"].credit_rule)
    arguments = (logits, rollout, [stats.logps], [credit.token_advantages], ref_logits)
    ahead = (stats.ref_logps - stats.logps)[rollout.mask[0]]
    penalty = policy_loss(*arguments, beta=ARMS["grpo+kl"].beta) - policy_loss(*arguments, beta=ARMS["grpo"].beta)
    assert penalty.item() == pytest.approx(0.04 * (ahead.exp() - ahead - 1).mean().item(), rel=1e-4)


def test_cells_name_everything_that_decides_them():
    planned = cells.planned(range(10), reduced=False)
    assert len(planned) == len(set(planned))
    assert {cell.rule for cell in planned} == set(ARMS)
    one = cells.settings(planned[0])
    assert {"rule", "code", "warm_up", "num_rollouts", "learning_rate"} <= one.keys()
    pairs = [(cell.variant, cell.rule) for cell in planned]
    assert {pairs.count(pair) for pair in set(pairs)} == {10}


def test_a_right_pick_of_the_signed_oracle_counts_alike_however_far_a_batch_gets():
    mask, zeros = torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12)
    for last_pick in (0.0, 1.0):  # nobody gets beyond the first pick, or one does
        causal = zeros.clone()
        causal[:, 3] = torch.tensor([1.0, -1.0])
        causal[0, 6] = last_pick
        stats = TokenStats(mask, torch.ones(2), zeros, zeros, zeros, 10)
        for name in ("signed oracle", "signed in groups mixed .5"):
            given = assign_credit(stats, ARMS[name].rule_for(OracleStats(causal, num_picks=4))).token_advantages
            even = 0.5 if "groups" in name else 0.0
            assert given[:, 3].tolist() == [even + (1 - even) * 12 / 4, even - (1 - even) * 12 / 4]


def test_what_the_signals_point_at_is_taken_from_the_same_completions():
    rollout, logits, ref_logits = rollout_with_credit()
    (stats,) = token_stats(logits, ref_logits, rollout, None, 4)
    assert rollout.num_picks == 1
    log = measure.Log(1)
    log.credit(0, [stats], [assign_credit(stats, ARMS["grpo"].credit_rule)], rollout)
    log.rewards(rollout.rewards, rollout.advantages)
    (record,) = log.records([{}])
    row, mask = record["credit"][0], rollout.mask[0]
    causes = (rollout.causal[0] != 0)[mask]
    assert row["auroc"] == 0.5
    assert row["auroc d"] == measure.auroc(stats.hellinger_sq[mask], causes)
    assert row["auroc h"] == measure.auroc(stats.entropy[mask], causes)
    assert row["auroc d*h"] == measure.auroc((stats.hellinger_sq * stats.entropy)[mask], causes)
    assert len({row[f"auroc {name}"] for name in ("d", "h", "d*h")}) == 3


def test_models_are_written_to_the_folder_that_a_cell_is_told(tmp_path):
    (cell,) = cells.planned([0], reduced=True)[:1]
    (record,) = cells.run([cell], [cells.settings(cell)], models=tmp_path / "models")
    assert len(record["rewards"]) == 4
    assert len(list((tmp_path / "models").glob("*.pt"))) == 1
    with pytest.raises(RuntimeError, match="another rule"):
        cells.run([cell], [cells.settings(cell) | {"rule": "edited"}], models=tmp_path)
