"""What the experiment says, as Markdown and verdicts, from its results."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.report import (
    Verdict,
    above,
    below,
    folded,
    interval,
    markdown_table,
    paired_difference,
    record_line,
    shown,
)
from experiments.smollm2 import summary
from experiments.smollm2.rules import (
    ARMS,
    AT_RATES,
    BASE,
    CHOSEN_ON,
    GRPO,
    HINDSIGHT,
    HINTS,
    MODEL,
    RATED,
    RATES,
    SDPO,
    TASKS,
    arms_of,
)
from experiments.smollm2.summary import trained

JUDGED = tuple(rule for rule in ("dgpo", *HINTS, SDPO, "entropy") if rule not in RATES)
"""The arms that the page has a verdict on."""
ABOUT = {
    "sums": "Sums of three one-digit numbers, solved step by step after four worked examples.",
    "lcm": "Least common multiples of two numbers up to 12, answered at once.",
}


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    parts = [
        "## A real small model: SmolLM2-135M-Instruct",
        _what_was_run(results),
        *(part for task in trained(results) for part in _task_parts(results, task)),
        _at_best_rates(results),
        record_line(results["record"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def short_table(results: Mapping[str, Any]) -> str:
    """Return the table of the README: held-out accuracy of each arm, less GRPO's, on every task."""
    tasks = trained(results)
    rows = []
    for rule in (
        BASE,
        *(rule for rule in ARMS if rule not in RATES and any(rule in rules for rules in tasks.values())),
    ):
        row = [_label(rule)]
        for task in tasks:
            found = summary.accuracy(results, task, rule)
            both = rule not in (BASE, GRPO) and len(found.keys() & summary.accuracy(results, task, GRPO).keys()) > 1
            gain = f", {shown(summary.over_seeds(results, task, rule, GRPO), signed=True)}" if both else ""
            row.append(f"{statistics.fmean(found.values()):.3f} ({len(found)} seeds){gain}" if found else "")
        rows.append(row)
    return markdown_table(["held-out accuracy, less GRPO's", *(f"`{task}`" for task in tasks)], rows)


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it; nothing where no arm can be compared."""
    judged = _learning(results)
    if not judged:
        return ""
    better = [ARMS[rule].label for rule, verdict in judged.items() if verdict.verdict == "supported"]
    return (
        "A real small model? On two short trainings of SmolLM2-135M "
        + (f"these beat GRPO: {'; '.join(better)}. " if better else "none of the arms beats GRPO on both tasks. ")
        + _control(results)
        + "A hint leaks as well: a hinted reference may find a wrong step likelier because its number is the answer."
    )


def _control(results: Mapping[str, Any]) -> str:
    """What a hint's control does, in a sentence; nothing where it was not run with and without on a task."""
    pairs = {
        task: [summary.accuracy(results, task, rule) for rule in (HINDSIGHT, "hindsight-plain")]
        for task in trained(results)
    }
    told = {task: [statistics.fmean(one.values()) for one in both] for task, both in pairs.items() if all(both)}
    if not told:
        return ""
    ends = ", ".join(f"{against:.3f} and {plain:.3f} on `{task}`" for task, (against, plain) in told.items())
    return (
        "A hint changes how a model writes, whatever it says: compared with a wrong hint and with none, hindsight ends "
        f"at {ends}; so leave `hint_control` on. "
    )


def _what_was_run(results: Mapping[str, Any]) -> str:
    settings = next(cell["settings"] for cell in results["cells"] if cell["cell"][1] != BASE)
    missing = [
        f"{task}: {', '.join(left)}"
        for task in TASKS
        if (left := [rule for rule in arms_of(task) if rule not in (BASE, *trained(results).get(task, []))])
    ]
    return (
        f"{MODEL}, weights dequantized from 4 bits, bfloat16, LoRA r = {settings['lora_r']} on the last "
        f"{settings['lora_layers']} layers, learning rate {settings['learning_rate']:g}, plain-text prompts, "
        "`DGPOTrainer` for every rule but SDPO, which is TRL's with its defaults. What hindsight's frozen reference is "
        "shown, SDPO's teacher is: the prompt with the answer in brackets, in the worked examples too. Held-out: "
        f"{settings['eval_size']} questions x {settings['eval_samples']} samples at T = 1 for each seed. These are "
        "very short trainings, which can show a large difference between rules but not a small one."
        + (f" Of the grid, not run yet: {'; '.join(missing)}." if missing else "")
    )


def _at_best_rates(results: Mapping[str, Any]) -> str:
    """GRPO and hindsight at the learning rate that is best for each on other seeds, where these were run."""
    best = summary.best_rates(results)
    if best is None:
        return ""
    grpo, hindsight = best
    tried = "; ".join(
        f"{ARMS[rule].label} {shown(interval(list(summary.accuracy(results, RATED, rule, chosen=True).values())))}"
        for rules in AT_RATES.values()
        for rule in rules
    )
    gain = shown(summary.over_seeds(results, RATED, hindsight, grpo), signed=True)
    return (
        f"Each at its own learning rate, on `{RATED}`: on seeds {CHOSEN_ON[0]} to {CHOSEN_ON[-1]}, of which nothing "
        f"else is shown, {tried}. With the better rate of each, {ARMS[hindsight].label}, less {ARMS[grpo].label}, on "
        f"the seeds of the table: {gain}."
    )


def _how_it_was_trained(results: Mapping[str, Any], task: str) -> str:
    settings = next(iter(summary.cells_of(results, task, trained(results)[task][0]).values()))["settings"]
    groups = settings["per_device_train_batch_size"] // settings["num_generations"]
    return (
        f"{ABOUT[task]} {settings['max_steps']} steps of {groups} prompts x {settings['num_generations']} completions "
        f"of at most {settings['max_completion_length']} tokens."
    )


def _task_parts(results: Mapping[str, Any], task: str) -> list[str]:
    rules = trained(results)[task]
    name = task.replace("_", "-")
    return [
        f"### `{task}`",
        _how_it_was_trained(results, task),
        _accuracy_table(results, task, rules),
        f"![{task}](figures/smollm2-{name}-rules.png)",
        folded("each seed", _seeds_table(results, task, rules)),
        folded("what the trainings were like", _training_table(results, task, rules)),
    ]


def _accuracy_table(results: Mapping[str, Any], task: str, rules: list[str]) -> str:
    rows = []
    for rule in (BASE, *rules):
        values = summary.accuracy(results, task, rule)
        if not values:
            continue
        row = [_label(rule), len(values), shown(interval(list(values.values())))]
        baseline = summary.baseline_of(rule)
        shared = rule != BASE and values.keys() & summary.accuracy(results, task, baseline).keys()
        if shared:
            row += [
                shown(summary.over_seeds(results, task, rule, baseline), signed=True),
                shown(summary.over_questions(results, task, rule, baseline), signed=True),
            ]
        rows.append(row + ["-"] * (5 - len(row)))
    header = [
        "held-out accuracy",
        "seeds",
        "mean over seeds",
        "minus GRPO (GRPO: minus before), over seeds",
        "the same, over questions",
    ]
    return markdown_table(header, rows)


def _seeds_table(results: Mapping[str, Any], task: str, rules: list[str]) -> str:
    """Held-out accuracy of each seed."""
    found = {rule: summary.accuracy(results, task, rule) for rule in (BASE, *rules)}
    seeds = sorted(set().union(*found.values()))
    rows = [
        [_label(rule), *(f"{values[seed]:.3f}" if seed in values else "" for seed in seeds)]
        for rule, values in found.items()
    ]
    return markdown_table(["seed", *map(str, seeds)], rows)


def _label(rule: str) -> str:
    return "before training" if rule == BASE else ARMS[rule].label


def _training_table(results: Mapping[str, Any], task: str, rules: list[str]) -> str:
    rows = []
    for rule in rules:
        ends = {name: summary.at_end(results, task, rule, name) for name in ("reward", "entropy")}
        norms = summary.steps(results, task, rule, "grad_norm")
        means = [summary.steps(results, task, rule, name) for name in ("effective_share", "hint_auroc")]
        seconds = [cell["seconds_per_step"] for cell in summary.cells_of(results, task, rule).values()]
        rows.append(
            [
                ARMS[rule].label,
                *(shown(interval(list(values.values()))) if values else "-" for values in ends.values()),
                f"{statistics.fmean(norms):.3f}",
                f"{statistics.variance(norms):.4f}",
                f"{max(norms):.3f}",
                *(f"{statistics.fmean(values):.3f}" if values else "-" for values in means),
                f"{statistics.median(seconds):.1f}",
            ]
        )
    header = [
        f"last {summary.LAST} steps: reward",
        "entropy, nats",
        "gradient norm: mean",
        "variance",
        "largest",
        "effective share",
        "AUROC of the hint",
        "s a step, median",
    ]
    return markdown_table(["", *header], rows)


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the experiment says about the claims it can be asked about."""
    return [*_learning(results).values(), *([_steadier(results)] if _comparable(results, "dgpo") else [])]


def _learning(results: Mapping[str, Any]) -> dict[str, Verdict]:
    """Whether each arm that can be compared learns better than GRPO."""
    return {rule: _learns_better(results, rule) for rule in JUDGED if _comparable(results, rule)}


def _comparable(results: Mapping[str, Any], rule: str) -> list[str]:
    """Tasks on which the rule and GRPO share at least two seeds."""
    return [
        task
        for task, rules in trained(results).items()
        if {rule, GRPO} <= set(rules)
        and len(summary.accuracy(results, task, rule).keys() & summary.accuracy(results, task, GRPO).keys()) > 1
    ]


def _learns_better(results: Mapping[str, Any], rule: str) -> Verdict:
    differences = {task: summary.over_seeds(results, task, rule, GRPO) for task in _comparable(results, rule)}
    better = all(map(above, differences.values()))
    listed = "; ".join(f"`{task}` {shown(estimate, signed=True)}" for task, estimate in differences.items())
    shares = [value for task in differences for value in summary.steps(results, task, rule, "effective_share")]
    share = statistics.fmean(shares) if shares else 0.0
    even = f" Mean effective share {share:.3f}: its weights are so even that it is nearly GRPO." if share > 0.97 else ""
    return Verdict(
        f"{ARMS[rule].label}: learns arithmetic better than GRPO (SmolLM2-135M)",
        "supported" if better else "not supported",
        f"Held-out accuracy minus GRPO's, 95 % over seeds: {listed}.{even}",
        {task: estimate.value for task, estimate in differences.items()},
        asked_by="the paper" if rule == "dgpo" else "us",
        short=f"accuracy less GRPO's: {listed}",
    )


def _steadier(results: Mapping[str, Any]) -> Verdict:
    listed, short, good, figures = [], [], True, {}
    for task in _comparable(results, "dgpo"):
        ours, theirs = (summary.norm_variance(results, task, rule) for rule in ("dgpo", GRPO))
        logs = {seed: math.log(ours[seed] / theirs[seed]) for seed in ours.keys() & theirs.keys()}
        log_ratio = interval(list(logs.values()))
        change = _relative(log_ratio)
        entropy = paired_difference(*(summary.at_end(results, task, rule, "entropy") for rule in ("dgpo", GRPO)))
        good &= below(log_ratio) and above(entropy)
        listed.append(
            f"`{task}`: variance {shown(change, digits=2, signed=True)} of GRPO's, entropy at the end "
            f"{shown(entropy, digits=2, signed=True)} nats"
        )
        short.append(f"`{task}` {shown(change, digits=2, signed=True)}")
        figures[task] = {"variance": change.value, "entropy": entropy.value}
    return Verdict(
        "gradient variance -41 %, mode collapse -68 % (second-hand; SmolLM2-135M)",
        "supported" if good else "not supported",
        f"DGPO at tau = 0.5 beside GRPO, 95 % over seeds, variance of the gradient norm over the steps of a training: "
        f"{'; '.join(listed)}.",
        figures,
        short=f"variance, relative: {'; '.join(short)}",
    )


def _relative(log_ratio: Estimate) -> Estimate:
    ends = (None if end is None else math.expm1(end) for end in (log_ratio.low, log_ratio.high))
    return Estimate(math.expm1(log_ratio.value), *ends)
