"""The surface moves what it says, compares equal trainings, and its verdict follows the figures."""

import json
from dataclasses import replace

import pytest
import torch

from dgpo import TokenStats, assign_credit
from experiments.command import main
from experiments.credit.oracles import CreditArm
from experiments.credit.train import train
from experiments.credit.variants import REDUCED
from experiments.provenance import command_record
from experiments.surface import page
from experiments.surface.__main__ import EXPERIMENT
from experiments.surface.cells import planned
from experiments.surface.comparison import differences
from experiments.surface.points import ARMS, BASE, GRPO, LARGE, POINTS, SETTINGS, TAUS


def stats():
    random = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 8, dtype=torch.bool)
    distance, entropy = (torch.rand(mask.shape, generator=random) for _ in range(2))
    zeros = torch.zeros(mask.shape)
    return TokenStats(mask, torch.ones(3), entropy, zeros, zeros, vocab_size=23, hellinger_sq=distance)


def test_words_that_are_never_likely_are_a_larger_vocabulary():
    arm = ARMS["dgpo tau=.5 V=152,064"].credit_rule
    large = assign_credit(stats()._replace(vocab_size=LARGE), ARMS["dgpo tau=.5"].credit_rule)
    assert assign_credit(stats(), arm).weights.equal(large.weights)
    assert not large.weights.equal(assign_credit(stats(), ARMS["dgpo tau=.5"].credit_rule).weights)


def test_every_axis_passes_through_the_task_as_it_is_and_moves_one_thing():
    base = SETTINGS[BASE]
    axes = {point.axis for point in POINTS}
    through = {point.axis for point in POINTS if point.variant == BASE and not point.suffix}
    # All of their points make 40 rollouts.
    assert axes - through == {"updates per rollout", "updates per rollout, clip 0.28"}
    for point in POINTS:
        setting = SETTINGS[point.variant]
        beside = SETTINGS[point.variant.removesuffix(", clip 0.28")] if "clip" in point.variant else base
        moved = [name for name in vars(base) if getattr(setting, name) != getattr(beside, name)]
        assert moved == ["clip_high"] if "clip" in point.variant else len(moved) <= 2, point
        assert setting.num_prompts * setting.num_generations == 32
    assert len({(cell.variant, cell.rule) for cell in planned([0])}) == len(planned([0]))


def test_a_reference_with_a_warm_up_of_its_own_is_another_model_and_no_weight_reads_it_at_grpo(tmp_path):
    def trained(**options):
        return train(REDUCED, CreditArm(**options), [0], tmp_path, eval_prompts=4)[0]["grad_norms"]

    sharp = {"rule": "dgpo", "options": {"tau": 0.05}}
    assert trained(**sharp, reference_steps=REDUCED.warm_up.steps) == trained(**sharp)
    assert trained(**sharp, reference_steps=10) != trained(**sharp)
    assert trained(reference_steps=10) == trained()


def test_a_wider_clip_moves_what_the_later_updates_do_alone(tmp_path):
    def norms(**options):
        variant = replace(REDUCED, num_updates=3, learning_rate=3e-2, **options)
        return train(variant, CreditArm(), [0], tmp_path, eval_prompts=4)[0]["grad_norms"]

    narrow, wide = norms(), norms(clip_high=2.0)
    assert narrow[:1] == wide[:1]
    assert narrow != wide


def made_up(gain):
    """Results in which DGPO's area is `gain` above GRPO's, give or take a thousandth."""
    rules = {}
    for point in POINTS:
        for method in (GRPO, *TAUS):
            area = 0.5 + (gain if method != GRPO else 0.0)
            seeds = {
                str(seed): {"area": area + 0.001 * (-1) ** seed * (method != GRPO), "effective_share": 0.9}
                for seed in range(10)
            }
            rules.setdefault(point.variant, {})[point.arm(method)] = {"seeds": seeds}
    counts = {"cells": 1, "cells_computed_by_this_command": 1, "cpu_seconds": 1.0}
    return {"rules": rules, "record": command_record() | counts}


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "supported"), (0.0, "not supported"), (-0.1, "not supported")])
def test_the_verdict_follows_the_figures(gain, verdict):
    results = made_up(gain)
    (only,) = page.verdicts(results)
    assert only.verdict == verdict
    assert f"{100 * gain:+.1f}" in only.short
    assert ("worse in none" in only.why) == (gain >= 0)
    assert page.section(results).count("| learning rate |") == 5
    assert "Warm-up, tokens per completion 202: 1000 updates in place of 250" in page.section(results)


def test_a_part_runs_and_has_no_surface(tmp_path):
    options = ["--reduced", "--workers", "0", "--quiet", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path)]
    assert main(EXPERIMENT, [*options, "--rules", "grpo,dgpo tau=.1 refreshed 1"]) == 0
    results = json.loads((tmp_path / "surface.json").read_text())
    assert set(results["rules"]["reduced"]) == {"grpo", "dgpo tau=.1 refreshed 1"}
    assert differences(results) == {}
