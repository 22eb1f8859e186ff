import json
import math
import re

import pytest

from experiments.harness import Cell
from experiments.smollm2 import checkpoint, page, summary, training
from experiments.smollm2.__main__ import EXPERIMENT, grid
from experiments.smollm2.questions import HINTED, MISLED, MISSOLVED, SOLVED, draw, right
from experiments.smollm2.rules import ARMS, BASE, CHOSEN_ON, HINTS, RATED, REDUCED, TASKS, arms_of
from experiments.value_ground_truth.worked import WORKED


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A Llama of 2 layers whose tokenizer knows the digits, in place of a model that CI would have to download."""
    from dgpo.lab.tasks.forks.model import WarmUpConfig, build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    build_model(WarmUpConfig(num_forks=1)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def result_of(rule, model, task):
    cell = Cell(task, rule, 0)
    settings = training.settings_of(cell, REDUCED | {"lora_layers": 1}) | {"model": model}
    (result,) = training.run([cell], [settings])
    return json.loads(json.dumps(result)), settings


@pytest.mark.parametrize(("rule", "task"), [("hindsight-plain", "sums"), ("entropy", "lcm"), ("sdpo", "lcm")])
def test_a_cell_trains_and_is_measured(rule, task, tiny_model):
    result, settings = result_of(rule, tiny_model, task)
    assert {len(values) for values in result["curves"].values()} == {settings["max_steps"]}
    assert len(result["correct"]) == settings["eval_size"]
    assert set(result["correct"]) <= set(range(settings["eval_samples"] + 1))
    first, dead = (result["curves"][name][0] for name in ("effective_share", "frac_reward_zero_std"))
    if rule == "entropy":  # its score differs from token to token before the policy has moved
        assert math.isnan(first) if dead == 1.0 else first < 1.0  # without any advantage no completion is scored
    elif rule == "hindsight-plain":  # its hints teach where no completion has an advantage
        assert first < 1.0
        assert result["curves"]["grad_norm"][0] > 0
        assert result["curves"]["hint_size"][0] > 0
    else:
        assert math.isnan(first)
        assert result["curves"]["grad_norm"][0] > 0
    assert all(0 <= reward <= 1 for reward in result["curves"]["reward"])


def test_the_base_model_is_measured_and_not_trained(tiny_model):
    result, _ = result_of(BASE, tiny_model, "lcm")
    assert all(values == [] for values in result["curves"].values())
    assert len(result["correct"]) == REDUCED["eval_size"]


def test_arms_are_rules_of_the_library():
    assert str(ARMS["entropy"].credit_rule) == "entropy(tau=0.5, kappa=1.0)"
    assert {name: arm.credit_rule.traits.needs_reference for name, arm in ARMS.items()} == {
        "grpo": False, "dgpo": True, "hindsight": True, "hindsight-plain": True, "hindsight-solution": True,
        "sdpo": False, "dgpo-sharp": True, "share": True, "entropy": False, "grpo-slow": False, "hindsight-slow": True,
        "hindsight-checked": True,
    }  # fmt: skip
    assert [name for name, arm in ARMS.items() if arm.credit_rule.traits.needs_hint] == sorted(
        HINTS, key=list(ARMS).index
    )
    assert set(arms_of("sums")) ^ set(arms_of("lcm")) == {"hindsight-solution", "grpo-slow", "hindsight-slow"}


@pytest.mark.parametrize("task", TASKS)
def test_a_hint_changes_a_prompt_by_the_answer_alone_and_no_question_is_held_out_twice(task):
    train, held_out = draw(TASKS[task].dataset, TASKS[task].options, seed=3, eval_size=64)
    assert len(held_out) == 64
    assert len(train) >= 300
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    for row in held_out:
        told, misled = (re.findall(r" \((?:T|t)he answer is (\d+)\.?\)", row[name]) for name in (HINTED, MISLED))
        assert told[-1] == row["answer"] != misled[-1]
        assert told[:-1] == misled[:-1]  # worked examples have their own
        for name in (HINTED, MISLED):
            assert re.sub(r" \((?:T|t)he answer is \d+\.?\)", "", row[name]) == row["prompt"]
        assert right([f" The answer is {row['answer']}.\n1", f" {row['answer']}0"], [row["answer"]] * 2) == [1.0, 0.0]
        if task == "sums":
            shown, slipped = (row[name].split("Solution: ")[-1].split("\nA:")[0] for name in (SOLVED, MISSOLVED))
            assert right([shown, slipped], [row["answer"]] * 2) == [1.0, 0.0]
            assert row[SOLVED].replace(shown, slipped) == row[MISSOLVED]
    assert draw(TASKS[task].dataset, TASKS[task].options, seed=4, eval_size=64)[1] != held_out


def test_what_an_arm_without_a_reference_does_not_log_is_left_out():
    one = cell("grpo", 0, [1])
    one["curves"]["entropy"] = one["curves"]["hint_auroc"] = [None] * 4
    results = {"record": {}, "cells": [one, cell("dgpo", 0, [1])]}
    assert summary.at_end(results, "sums", "grpo", "entropy") == {}
    assert summary.at_end(results, "sums", "dgpo", "entropy") == {0: 2.0}
    row = next(line for line in page._training_table(results, "sums", ["grpo", "dgpo"]).splitlines()[2:])
    assert [row.split(" | ")[column] for column in (2, 7)] == ["-", "-"]


def test_every_cell_of_the_grid_has_settings_of_its_own():
    cells = list(grid(range(2)))
    assert len(cells) == len(set(cells)) == 2 * (len(arms_of("sums")) + len(arms_of("lcm")))
    same_seed = [json.dumps(training.settings_of(cell, {}), sort_keys=True) for cell in cells if cell.seed == 0]
    assert len(same_seed) == len(set(same_seed))


def test_a_rate_is_chosen_on_seeds_that_nothing_else_reads():
    assert not set(CHOSEN_ON) & set(EXPERIMENT.seeds)
    whole = [one for one in grid(EXPERIMENT.seeds) if one.seed in CHOSEN_ON]
    assert len(whole) == 2 * 2 * len(CHOSEN_ON)
    assert not any(one.seed in CHOSEN_ON for one in grid(range(2)))
    rates = {rule: training.settings_of(Cell(RATED, rule, 0), {})["learning_rate"] for rule in arms_of(RATED)}
    assert rates["grpo-slow"] == rates["hindsight-slow"] == pytest.approx(0.3 * rates["grpo"])
    # The slower GRPO is better where rates are chosen and worse where they are compared; hindsight the other way.
    right = {"grpo": (1, 2), "grpo-slow": (2, 1), "hindsight": (2, 1), "hindsight-slow": (1, 2)}
    cells = [
        cell(rule, seed, [counts[seed < 2]] * 2, task=RATED)
        for rule, counts in right.items()
        for seed in (0, 1, *CHOSEN_ON)
    ]
    assert summary.best_rates({"cells": cells}) == ("grpo-slow", "hindsight")
    assert summary.accuracy({"cells": cells}, RATED, "grpo") == {0: 1.0, 1: 1.0}
    assert "x 0.3, on the seeds of the table: +0.000" in page._at_best_rates({"cells": cells})
    assert summary.best_rates({"cells": cells[:-1]}) is None


def cell(rule, seed, correct, *, task="sums", norm=1.0):
    curves = {name: [norm, 3 * norm, norm, 3 * norm] for name in training.CURVES}
    return {
        "cell": [task, rule, seed],
        "settings": {**training.settings_of(Cell(task, rule, seed), {"eval_samples": 2})},
        "curves": curves if rule != BASE else {name: [] for name in curves},
        "correct": correct,
        "seconds_per_step": 1.0,
    }


def test_differences_are_paired_by_seed_and_by_question():
    # GRPO is right in 1 and 3 of 4 samples, DGPO in 2 and 4 of 4: +1/4 in both seeds, however far these lie apart.
    results = {
        "record": {},
        "cells": [cell("grpo", 0, [1, 0]), cell("grpo", 1, [1, 2]), cell("dgpo", 0, [2, 0]), cell("dgpo", 1, [2, 2])],
    }
    seeds = summary.over_seeds(results, "sums", "dgpo", "grpo")
    assert (seeds.value, seeds.low, seeds.high) == (0.25, 0.25, 0.25)
    # Per question +1/2, 0, +1/2, 0: sd = 0.2887, t(3) = 3.182, 3.182 * 0.2887 / 2 = 0.459.
    questions = summary.over_questions(results, "sums", "dgpo", "grpo")
    assert questions.value == 0.25
    assert questions.high - questions.value == pytest.approx(0.459, abs=1e-3)
    assert page.verdicts(results)[0].verdict == "supported"
    results["cells"][2]["correct"] = [0, 0]
    assert page.verdicts(results)[0].verdict == "not supported"


@pytest.mark.parametrize(("norm", "word"), [(0.5, "supported"), (2.0, "not supported")])
def test_variance_and_collapse_take_a_smaller_variance_and_a_larger_entropy(norm, word):
    cells = [cell(rule, seed, [1, 1]) for rule in ("grpo", "dgpo") for seed in (0, 1)]
    for row in cells[2:]:
        row["curves"]["grad_norm"] = [norm, 3 * norm, norm, 3 * norm]
        row["curves"]["entropy"] = [2.0, 6.0, 2.0, 6.0]
    verdict = page.verdicts({"record": {}, "cells": cells})[-1]
    assert verdict.verdict == word
    # Norms scaled by a half have a quarter of the variance.
    assert verdict.figures["sums"]["variance"] == pytest.approx(norm**2 - 1)
    assert verdict.figures["sums"]["entropy"] == pytest.approx(2.0)


@pytest.mark.parametrize("task", WORKED)
def test_checkpoints_are_adapters_of_the_model_and_load(task, tiny_model, tmp_path):
    from dgpo.lab.evaluation.loading import load_model, named_model

    settings = training.settings_of(Cell("sums", "grpo", 0), REDUCED | {"lora_layers": 1, "learning_rate": 0.1})
    settings |= {"model": tiny_model, "task": {"dataset": task, "options": {}}}
    folders = checkpoint.keep(Cell("sums", "grpo", 0), settings, (2, 1), tmp_path)
    assert [folder.name for folder in folders] == ["step-1", "step-2"]
    for folder in folders:
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny_model
        assert load_model(named_model(str(folder)), dtype="float32") is not None


def test_checkpoints_name_steps(capsys):
    with pytest.raises(SystemExit):
        checkpoint.main(["--steps", "0,6"])
    assert "'0,6' names no steps" in capsys.readouterr().err
