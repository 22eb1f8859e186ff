"""Metrics weigh tokens, not batches; and an inert run is told so, once, in plain words."""

import math

import pytest
import torch
from support import FixedDGPOTrainer, make_trainer

from dgpo.core import CreditTotals


def train_counting(checkpoint, tmp_path, **options):
    """Train and return what was logged, with the totals of every scored batch."""
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05, tau=0.02, **options)
    batches = []
    count = trainer._count

    def spy(totals, *more):
        batches.append(totals)
        count(totals, *more)

    trainer._count = spy
    trainer.train()
    return trainer.recorder.steps, batches


def test_accumulated_batches_are_weighed_by_their_tokens(checkpoint, tmp_path):
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "max_steps": 1}
    (logged,), batches = train_counting(checkpoint, tmp_path, **options)
    assert len(batches) == 4
    everything = sum(batches[1:], start=batches[0])
    expected = everything.metrics()
    assert {k: v for k, v in logged.items() if k.startswith("dgpo/")} == pytest.approx(expected, rel=1e-6)
    assert logged["kl"] == pytest.approx(everything.mean_kl(), rel=1e-6)
    # The batches differ enough for a mean of means to be seen.
    means = [b.metrics()["dgpo/hellinger_sq/mean"] for b in batches]
    assert sum(means) / 4 != pytest.approx(expected["dgpo/hellinger_sq/mean"], rel=1e-4)


def test_a_logging_window_of_several_steps_holds_all_of_them(checkpoint, tmp_path):
    (logged,), batches = train_counting(checkpoint, tmp_path, logging_steps=3)
    assert len(batches) == 3
    expected = sum(batches[1:], start=batches[0]).metrics()
    assert {k: v for k, v in logged.items() if k.startswith("dgpo/")} == pytest.approx(expected, rel=1e-6)


def test_every_promised_metric_is_logged(checkpoint, tmp_path):
    logged, _ = train_counting(checkpoint, tmp_path)
    promised = {
        "dgpo/hellinger_sq/mean",
        "dgpo/hellinger_sq/p99",
        "dgpo/hellinger_sq/max",
        "dgpo/entropy_gate/mean",
        "dgpo/weight/std",
        "dgpo/weight/max",
        "dgpo/effective_share",
        "kl",
        "reward",
        "entropy",
        "clip_ratio/region_mean",
    }
    for entry in logged:
        assert promised <= entry.keys()
        assert all(math.isfinite(entry[name]) for name in promised)


@pytest.mark.parametrize(("steps", "tau", "warned"), [(3, 1e6, True), (2, 1e6, False), (3, 0.001, False)])
def test_an_inert_run_is_told_once(checkpoint, tmp_path, caplog, steps, tau, warned):
    options = {"inert_warning_steps": 3, "max_steps": 2 * steps if warned else steps, "tau": tau}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05, **options)
    with caplog.at_level("WARNING", logger="dgpo.engines.trl.trainer"):
        trainer.train()
    warnings = [r.getMessage() for r in caplog.records if "inert" in r.getMessage()]
    assert len(warnings) == int(warned)
    if warned:
        assert "inert for 3 steps" in warnings[0]
        assert "Lower tau" in warnings[0]


@pytest.mark.parametrize(("rule", "warned"), [("one_for_all", True), ("even", False)])
def test_a_rule_without_a_temperature_is_told_too_and_grpo_is_not(checkpoint, tmp_path, caplog, rule, warned):
    (tmp_path / "mine.py").write_text("def one_for_all(stats):\n    return stats.completion_mask.float()\n")
    name = rule if rule == "even" else f"{tmp_path / 'mine.py'}:{rule}"
    options = {"inert_warning_steps": 2, "max_steps": 2, "credit_rule": name}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path / "run", perturb=0.05, **options)
    with caplog.at_level("WARNING", logger="dgpo.engines.trl.trainer"):
        trainer.train()
    assert any("has been inert for 2 steps" in r.getMessage() for r in caplog.records) == warned


def test_totals_are_zero_safe():
    nothing = CreditTotals.of(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert nothing.stats().num_tokens == 0


def test_steps_that_reuse_active_weights_are_not_called_inert():
    from dgpo.core import CreditStats
    from dgpo.engines.inert import InertMonitor

    flat = CreditStats(10, 1, 1.0, 0.0, 1.0, 1.0, 1e-4, 2e-3, True)
    active = CreditStats(10, 1, 0.5, 1.0, 0.1, 3.0, 0.1, 0.3, False)
    monitor = InertMonitor(patience=3, tau=0.5, kappa=1.0)
    # Rollouts at steps 1 and 5, four updates each: steps 2 to 4 kept the active weights of step 1.
    assert monitor.update(active, 1, 1) is None
    assert monitor.update(flat, 5, 5) is None
    assert "inert for 5 steps" in monitor.update(flat, 9, 9)
