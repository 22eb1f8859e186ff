"""The surface moves what it says, compares equal trainings, and its verdict follows the figures."""

import json

import pytest
import torch

from dgpo import TokenStats, assign_credit
from experiments.command import main
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
    assert axes - through == {"updates per rollout"}  # all its points make 40 rollouts
    for point in POINTS:
        setting = SETTINGS[point.variant]
        moved = [name for name in vars(base) if getattr(setting, name) != getattr(base, name)]
        assert len(moved) <= 2, point
        assert setting.num_prompts * setting.num_generations == 32
    assert len({(cell.variant, cell.rule) for cell in planned([0])}) == len(planned([0]))


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


def test_a_part_runs_and_has_no_surface(tmp_path):
    options = ["--reduced", "--workers", "0", "--quiet", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path)]
    assert main(EXPERIMENT, [*options, "--rules", "grpo,dgpo tau=.1 refreshed 1"]) == 0
    results = json.loads((tmp_path / "surface.json").read_text())
    assert set(results["rules"]["reduced"]) == {"grpo", "dgpo tau=.1 refreshed 1"}
    assert differences(results) == {}
