"""Training of several seeds at once in one arm: the method is `dgpo.core`'s, sampling and loss are `credit`'s."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgpo.core import TokenStats, assign_credit
from dgpo.core.hindsight import hint_pairs, hint_totals
from experiments.credit import layout as language
from experiments.credit.model import Parameters, completion_logits, sample
from experiments.credit.train import Rollout, clip_each_seed, described, policy_loss, token_stats
from experiments.credit.variants import Variant
from experiments.hindsight import hints, signals
from experiments.hindsight.arms import Hint, KnowingArm
from experiments.hindsight.knowing import Told
from experiments.hindsight.record import Record, final_figures
from experiments.hindsight.signals import Opinion, Values
from experiments.hindsight.starts import started
from experiments.hindsight.trees import Grown, grown

MEASURED_EVERY = 10


class _Round(NamedTuple):
    """Prompts and completions of one round of sampling."""

    digits: Tensor
    rollout: Rollout
    tree: Grown | None


def train(
    variant: Variant, arm: KnowingArm, seeds: Sequence[int], models: Path, *, eval_prompts: int = 128
) -> list[dict[str, Any]]:
    """Return what happened to each seed; a seed's result does not depend on the others.

    Args:
        variant: The setting.
        arm: How tokens are credited.
        seeds: Of weights, prompts and samples: equal ones meet equal conditions in every arm.
        models: Folder of the warmed-up models.
        eval_prompts: Held-out prompts at the end.

    Returns:
        One record per seed, as JSON would hold it.
    """
    policy, reference = started(arm.start, variant.warm_up, seeds, models)
    began = time.process_time()
    parameters = {name: value.clone().requires_grad_() for name, value in policy.items()}
    teacher = reference
    rate = variant.learning_rate * arm.rate
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
    luck = [torch.Generator().manual_seed(9000 + seed) for seed in seeds]  # of hints and noise, none of the samples
    record, reads = Record(len(seeds)), arm.credit_rule.traits.reads
    compares = bool(set(reads) & {"hellinger_sq", "ref_logps", "kl"})
    for step, (digits, rollout, tree) in enumerate(_rounds(variant, arm, seeds, parameters, reference)):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / variant.num_rollouts)
        record.rollout(rollout, tree, variant.num_prompts)
        if arm.hint and arm.hint.refresh_every and step and step % arm.hint.refresh_every == 0:
            teacher = {name: value.detach().clone() for name, value in parameters.items()}
        opinion = _opinion(arm.hint, teacher, digits, rollout, variant.num_generations, luck) if arm.hint else None
        ref_logits = None
        if compares:
            with torch.no_grad():
                ref_logits = completion_logits(reference, rollout.prompts, rollout.completions)
            record.scored(int(rollout.mask.sum()))
        values, old_logps = None, None
        for _ in range(variant.num_updates):
            logits = completion_logits(parameters, rollout.prompts, rollout.completions)
            against = logits.detach() if ref_logits is None else ref_logits
            stats = token_stats(logits, against, rollout, old_logps, variant.num_generations)
            old_logps = old_logps if old_logps is not None else [one.logps for one in stats]
            if values is None and arm.values:
                values = _values(arm, variant, parameters, logits.detach(), rollout, digits, luck)
            if tree is None:
                token_advantages = _credit(arm, stats, rollout, opinion, values)
            else:
                token_advantages = list(tree.token_advantages)
            loss = policy_loss(
                logits,
                rollout,
                old_logps,
                token_advantages,
                against,
                beta=arm.beta,
                epsilon_high=variant.clip_high,
            )
            optimizer.zero_grad()
            loss.backward()
            record.update(clip_each_seed(parameters), int(rollout.mask.sum()))
            optimizer.step()
        record.scored((opinion.tokens if opinion else 0) + (values.tokens if values else 0))
        if step % MEASURED_EVERY == 0 or step == variant.num_rollouts - 1:
            record.signals(rollout, opinion, values)
    trained = {name: value.detach() for name, value in parameters.items()}
    seconds = (time.process_time() - began) / len(seeds)
    final = final_figures(trained, arm.start, variant.warm_up.layout, seeds, eval_prompts)
    return record.records(final, seconds)


def _rounds(
    variant: Variant, arm: KnowingArm, seeds: Sequence[int], parameters: Parameters, reference: Parameters
) -> Iterator[_Round]:
    """Rounds of sampling from whatever `parameters` hold when the next one is asked for."""
    layout, copies = variant.warm_up.layout, variant.num_generations
    streams = [language.Prompts(layout, f"credit train {seed}") for seed in seeds]
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    for _ in range(variant.num_rollouts):
        digits = language.stacked(streams, variant.num_prompts)
        if arm.tree is not None:
            tree = grown(arm.tree, parameters, reference, layout, digits, copies, generators)
            yield _Round(digits, tree.rollout, tree)
            continue
        size = (variant.num_prompts * copies, layout.length)
        uniforms = torch.stack([torch.rand(size, generator=generator) for generator in generators])
        ids = arm.start.prompts(language.prompt_ids(digits), layout.num_forks)
        completions = sample(
            parameters, ids, uniforms, num_generations=copies, length=layout.length, eos=language.EOS, pad=language.PAD
        )
        yield _Round(digits.repeat_interleave(copies, 1), described(layout, ids, digits, completions, copies), None)


def _opinion(
    hint: Hint, teacher: Parameters, digits: Tensor, rollout: Rollout, copies: int, luck: Sequence[torch.Generator]
) -> Opinion:
    """What the hinted teacher thinks of a rollout; all completions of a prompt see the same hint."""
    picks, wrong = hints.right_picks(digits), hints.wrong_picks(digits)
    if hint.random:
        drawn = [hints.partly(a[::copies], b[::copies], 0.5, g) for a, b, g in zip(picks, wrong, luck, strict=True)]
        picks = torch.stack(drawn).repeat_interleave(copies, 1)
    elif hint.wrong:
        is_wrong = torch.stack([torch.rand(digits.shape[1] // copies, generator=g) < hint.wrong for g in luck])
        picks = torch.where(is_wrong.repeat_interleave(copies, 1)[..., None], wrong, picks)
    # On this task all right answers of a prompt are the same, a sibling's included.
    has_hint = torch.ones_like(rollout.rewards, dtype=torch.bool)
    if hint.source == "peer":
        has_hint = signals.has_right_sibling(rollout.rewards, copies)
    control = {"none": None, "wrong": wrong, "other": picks.roll(copies, 1)}[hint.control]
    return signals.hinted_opinion(teacher, language.prompt_ids(digits), picks, has_hint, rollout, control)


def _values(
    arm: KnowingArm,
    variant: Variant,
    parameters: Parameters,
    logits: Tensor,
    rollout: Rollout,
    digits: Tensor,
    luck: Sequence[torch.Generator],
) -> Values:
    if arm.values == "gold likelihood":
        anywhere = arm.start.kind == "interrupted anywhere"
        return signals.gold_likelihoods(parameters, variant.warm_up.layout, rollout, digits, anywhere=anywhere)
    exact = signals.exact_values(logits, rollout, digits)
    return signals.noisy(exact, arm.sigma, luck, variant.num_generations) if arm.sigma else exact


def _agreement(stats: TokenStats) -> Tensor:
    assert stats.hindsight_log_ratio is not None
    assert stats.hindsight_hellinger_sq is not None
    assert stats.rewards is not None
    assert stats.group is not None
    totals = hint_totals(stats.hindsight_log_ratio, stats.hindsight_hellinger_sq, stats.completion_mask)
    return hint_pairs(totals, stats.rewards, stats.group).agreement


def _credit(
    arm: KnowingArm, stats: Sequence[TokenStats], rollout: Rollout, opinion: Opinion | None, values: Values | None
) -> list[Tensor]:
    """The token advantages of each seed."""
    given = []
    for index, one in enumerate(stats):
        if opinion is not None:
            one = one._replace(
                hindsight_log_ratio=opinion.log_ratio[index], hindsight_hellinger_sq=opinion.hellinger_sq[index]
            )
            one = one._replace(hint_agreement=_agreement(one))
        told = Told(rollout.causal[index])
        if values is not None:
            told = Told(rollout.causal[index], values.at_cuts[index], values.segment[index])
        given.append(assign_credit(one, arm.rule_for(told)).token_advantages)
    return given
