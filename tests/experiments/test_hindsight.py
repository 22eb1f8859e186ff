"""What the arms of `hindsight` are told is what they should be told, and a seed in a stack is what it is alone."""

import json
from dataclasses import replace

import pytest
import torch

from dgpo import TokenStats
from experiments.command import main
from experiments.credit import layout as language
from experiments.credit.layout import Layout
from experiments.credit.model import Shape, initial_parameters
from experiments.credit.train import described, token_stats
from experiments.credit.variants import REDUCED
from experiments.hindsight import claims, hints, knowing, page, signals
from experiments.hindsight.__main__ import EXPERIMENT
from experiments.hindsight.arms import Tree
from experiments.hindsight.knowing import Told
from experiments.hindsight.rules import ARMS, CHECKED, GOLD_ARM
from experiments.hindsight.starts import answered_after
from experiments.hindsight.train import _credit, train
from experiments.hindsight.trees import CONTINUATIONS, grown

RESULTS = EXPERIMENT.results

LAYOUT = Layout(2)
DIGITS = torch.tensor([[[7, 3], [2, 9]]])


def trace(*picks):
    """A completion of the prompt 7 3 | 2 9 with these picks."""
    right = language.demonstrations(LAYOUT, DIGITS, 1.0, torch.Generator().manual_seed(0))[0].clone()
    for index, pick in enumerate(picks):
        right[6 * index + 4] = right[13 + index] = pick + language.DIGIT
    return right


def rollout_of(*traces):
    return described(LAYOUT, language.prompt_ids(DIGITS)[None], DIGITS[None], torch.stack(traces)[None], len(traces))


def test_an_empty_slot_has_the_length_of_a_hint():
    ids = language.prompt_ids(DIGITS)
    told, empty = hints.with_hint(ids, hints.right_picks(DIGITS)), hints.without_hint(ids, 2)
    assert told.shape == empty.shape == (1, ids.shape[1] + hints.slot_length(2))
    assert told[0, -3:-1].tolist() == [7 + language.DIGIT, 9 + language.DIGIT]


def test_exact_values_are_products_of_the_right_picks_to_come_and_zero_after_a_wrong_one():
    rollout = rollout_of(trace(7, 9), trace(3, 9), trace(7, 2))
    logits = torch.zeros(1, 3, LAYOUT.length, language.VOCAB_SIZE)
    logits[..., 7 + language.DIGIT] = logits[..., 9 + language.DIGIT] = 3.0
    p = logits[0, 0, 0].softmax(-1)[9 + language.DIGIT].item()
    values = signals.exact_values(logits, rollout, DIGITS.expand(3, 2, 2)[None])
    expected = torch.tensor([[p * p, p, 1.0], [p * p, 0.0, 0.0], [p * p, p, 0.0]])
    torch.testing.assert_close(values.at_cuts[0], expected)
    assert values.segment[0, 0].tolist() == [0] * 5 + [1] * 6 + [2] * 5


def test_noise_leaves_the_value_of_a_prompt_the_same_for_its_completions():
    rollout = rollout_of(trace(7, 9), trace(3, 9))
    exact = signals.exact_values(
        torch.zeros(1, 2, LAYOUT.length, language.VOCAB_SIZE), rollout, DIGITS.expand(2, 2, 2)[None]
    )
    values = signals.noisy(exact, 1.0, [torch.Generator().manual_seed(0)], 2).at_cuts
    assert values[0, 0, 0] == values[0, 1, 0]
    assert (values != exact.at_cuts).all()


def test_only_completions_with_another_right_one_have_a_sibling():
    rewards = torch.tensor([[1.0, 0, 0, 0, 1, 1, 0, 0, 0]])
    assert signals.has_right_sibling(rewards, 3).tolist() == [[False, True, True, True, True, True] + [False] * 3]


def test_a_hint_is_compared_with_its_control():
    rollout = rollout_of(trace(7, 9), trace(3, 2))
    teacher = initial_parameters(Shape(language.VOCAB_SIZE, 11 + LAYOUT.length, hidden_size=16), [0])
    digits = DIGITS.expand(1, 2, 2, 2)
    ids, right, wrong = language.prompt_ids(digits), hints.right_picks(digits), hints.wrong_picks(digits)
    rollout = replace(rollout, prompts=hints.without_hint(ids, 2))

    def opinion(hint, control):
        return signals.hinted_opinion(teacher, ids, hint, torch.ones(1, 2, dtype=torch.bool), rollout, control)

    against, back, same = opinion(right, wrong), opinion(wrong, right), opinion(right, right)
    torch.testing.assert_close(against.log_ratio, -back.log_ratio)
    torch.testing.assert_close(against.log_ratio, opinion(right, None).log_ratio - opinion(wrong, None).log_ratio)
    torch.testing.assert_close(against.hellinger_sq, back.hellinger_sq)
    assert against.hellinger_sq[rollout.mask].max() > 0
    assert (same.log_ratio == 0).all()


def test_arms_with_a_check_leave_out_a_hint_that_the_rewards_contradict_and_the_others_use_it():
    rollout = rollout_of(trace(7, 9), trace(3, 2))
    logits = torch.zeros(1, 2, LAYOUT.length, language.VOCAB_SIZE)
    stats = token_stats(logits, logits, rollout, None, 2)
    says = (2 * rollout.rewards - 1)[..., None] * rollout.mask  # the right one is likelier with the hint

    def credit(arm, log_ratio):
        opinion = signals.Opinion(log_ratio, log_ratio.abs() / 2, 0)
        return _credit(ARMS[arm], stats, rollout, opinion, None)[0]

    checked, every = f"{GOLD_ARM}, checked", GOLD_ARM
    grpo = rollout.advantages[0][:, None] * rollout.mask[0]
    assert credit(checked, says).equal(credit(every, says))
    assert credit(checked, -says).equal(grpo)
    assert not credit(every, -says).equal(grpo)
    assert set(CHECKED) < set(ARMS)


def test_cuts_after_every_token_hold_those_after_every_fork():
    rollout, digits = rollout_of(trace(7, 9), trace(3, 2)), DIGITS.expand(1, 2, 2, 2)
    policy = initial_parameters(Shape(language.VOCAB_SIZE, 7 + LAYOUT.length, hidden_size=16), [0])
    forks = signals.gold_likelihoods(policy, LAYOUT, rollout, digits)
    every = signals.gold_likelihoods(policy, LAYOUT, rollout, digits, anywhere=True)
    torch.testing.assert_close(every.at_cuts[..., ::6], forks.at_cuts)
    assert len(set(every.at_cuts.flatten().tolist())) > 20  # and the others are of their own
    assert every.segment[0, 0].tolist() == [*range(12), 12, 12, 12, 12]


def test_a_cut_trace_answers_at_once():
    cut = answered_after(LAYOUT, trace(7, 2)[None], torch.tensor([6]), torch.tensor([[20, 21]]))[0]
    assert cut[:6].tolist() == trace(7, 2)[:6].tolist()
    assert cut[6:].tolist() == [language.EQUALS, 20, 21, language.EOS] + [language.PAD] * 6
    assert answered_after(LAYOUT, trace(7, 2)[None], torch.tensor([12]))[0].equal(trace(7, 2))
    within = answered_after(LAYOUT, trace(7, 2)[None], torch.tensor([8]))[0]
    assert within[:12].tolist() == [*trace(7, 2)[:8].tolist(), *trace(7, 2)[12:].tolist()]


def stats_of(rollout, **more):
    shape = rollout.mask[0].shape
    given = {
        "completion_mask": rollout.mask[0],
        "advantages": rollout.advantages[0],
        "entropy": torch.zeros(shape),
        "logps": torch.zeros(shape),
        "old_logps": torch.zeros(shape),
        "vocab_size": language.VOCAB_SIZE,
        "rewards": rollout.rewards[0],
        "group": torch.zeros(shape[0], dtype=torch.long),
    }
    return TokenStats(**given | more)


def test_value_changes_stand_at_the_picks():
    rollout = rollout_of(trace(7, 9), trace(3, 9))
    told = Told(
        rollout.causal[0],
        torch.tensor([[0.25, 0.5, 1.0], [0.25, 0, 0]]),
        torch.tensor([[0] * 5 + [1] * 6 + [2] * 5] * 2),
    )
    given = knowing.value_changes(stats_of(rollout), told=told, mix=1.0, by="completion")
    assert given.nonzero().tolist() == [[0, 4], [0, 10], [1, 4]]
    assert (given[0, 10] / given[0, 4]).item() == pytest.approx(2.0)
    assert given[1, 4] < 0
    # Borne by the whole stretch, and times the entropy.
    spread = knowing.value_changes(stats_of(rollout), told=told, mix=1.0, by="batch", spread=True)
    assert spread[0, :5].unique().numel() == spread[0, 5:11].unique().numel() == 1
    assert (spread[:, 11:] == 0).all()
    unsure = stats_of(rollout, entropy=torch.arange(16.0).expand(2, 16))
    gated = knowing.value_changes(unsure, told=told, mix=1.0, by="batch", spread=True, by_entropy=True)
    torch.testing.assert_close(gated[0, 1:5] / gated[0, 1], torch.arange(1.0, 5.0))
    # A decay of 1 sums the changes to come: the reward less the value of the stretch's start.
    summed = knowing.value_changes(stats_of(rollout), told=told, mix=1.0, decay=1.0, by="completion")
    torch.testing.assert_close(summed[0, 12] / summed[0, 0], torch.tensor(0.0))
    torch.testing.assert_close(summed[0, 5] / summed[0, 0], torch.tensor(0.5 / 0.75))


def test_branches_repeat_their_root_and_are_trained_after_it_alone():
    shape = Shape(language.VOCAB_SIZE, 7 + LAYOUT.length, hidden_size=16)
    policy, reference = initial_parameters(shape, [0, 1]), initial_parameters(shape, [2, 3])
    digits = DIGITS.expand(3, 2, 2).expand(2, 3, 2, 2)
    for at in ("random", "h", "d", "d*h", "decisions"):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        tree = grown(Tree(at), policy, reference, LAYOUT, digits, 4, generators)
        roots = 3 * 2
        assert tree.rollout.completions.shape == (2, roots * (1 + CONTINUATIONS), LAYOUT.length)
        branches, masks = tree.rollout.completions[:, roots:], tree.rollout.mask[:, roots:]
        parents = tree.rollout.completions[:, :roots].repeat_interleave(CONTINUATIONS, 1)
        before = (masks.cumsum(-1) == 0) & masks.any(-1, keepdim=True)
        assert branches[before].equal(parents[before])
        assert tree.sampled == int(tree.rollout.mask.sum())
        assert (tree.token_advantages[:, roots:][~masks] == 0).all()


@pytest.mark.parametrize(
    "name", ["grpo hinted", "hindsight gold", "values noise 1", "tree at d*h", "gold refreshed 1", "gold against other"]
)
def test_a_seed_in_a_stack_trains_as_it_does_alone(name, tmp_path):
    together = train(REDUCED, ARMS[name], [0, 1], tmp_path, eval_prompts=4)
    alone = train(REDUCED, ARMS[name], [1], tmp_path, eval_prompts=4)[0]
    assert alone["rewards"] == together[1]["rewards"]
    assert alone["grad_norms"] == pytest.approx(together[1]["grad_norms"], rel=1e-4)
    assert alone["final"] == pytest.approx(together[1]["final"], rel=1e-4, nan_ok=True)


def test_every_arm_has_a_baseline_of_its_own_start():
    for arm in ARMS.values():
        baseline = ARMS[arm.baseline]
        assert baseline.start == arm.start
        assert baseline.rule == "even"


def test_the_command_writes_results_figures_and_a_chapter_of_a_part(tmp_path):
    arms = "grpo hinted,hindsight gold,hindsight peer,grpo,exact advantage,no hint is true"
    options = ["--reduced", "--workers", "0", "--quiet", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path)]
    assert main(EXPERIMENT, [*options, "--rules", arms]) == 0
    results = json.loads((tmp_path / "hindsight.json").read_text())
    assert set(results["rules"]["reduced"]) == set(arms.split(","))
    assert results["rules"]["reduced"]["hindsight gold"]["cost"]["scored_tokens"] > 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"hindsight-ladder.png", "hindsight-variants.png"}
    assert "| hindsight" not in page.section(results)  # costs are shown of the variants that judge


def test_verdicts_follow_the_figures():
    """The committed figures with every gain of the gold arm taken away: its claim falls and the others stand."""
    results = json.loads(RESULTS.read_text())
    before = {verdict.claim: verdict.verdict for verdict in claims.verdicts(results)}
    for arms in results["rules"].values():
        arms["hindsight gold"]["seeds"] = arms["grpo hinted"]["seeds"]
    after = {verdict.claim: verdict.verdict for verdict in claims.verdicts(results)}
    changed = [claim for claim in before if before[claim] != after[claim]]
    assert changed == ["A frozen reference that is shown the answer turns it into token credit that beats GRPO"]
    assert after[changed[0]] == "not supported"


def test_results_name_the_arms_that_there_are():
    results = json.loads(RESULTS.read_text())
    for variant, arms in results["rules"].items():
        assert set(arms) <= set(ARMS)
        for arm in arms.values():
            assert arm["baseline"] in arms, variant
            assert len(arm["seeds"]) >= 10
