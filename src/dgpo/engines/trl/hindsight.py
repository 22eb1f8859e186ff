"""What the reference thinks of a rollout once it is shown a hint to the answer.

The reference is run on prompt and completion, and on the same completion after a prompt with the hint; both hidden
states go through one pass over its head. The first prompt has a hint as well, which is not its own (`hint_control`).
A prompt that several completions share is run once. There is no second model, no logits, and one such round a rollout,
however many updates are made of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.utils import pad

from dgpo.core import HINDSIGHT_STATS
from dgpo.core.hindsight import HintPairs, hint_pairs, hint_totals
from dgpo.credit_log.answers import texts_as_tensor
from dgpo.engines.hints import OTHER, PLAIN, best_sibling, cut_hints, hint_text, hinted_prompt, other_hints, template_of
from dgpo.engines.trl import heads
from dgpo.engines.trl.reference import score_frozen
from dgpo.engines.trl.rollout import AGREEMENT, CONTROL, GROUP, HINT, REWARD, trained_mask
from dgpo.engines.trl.scores import reference_policy
from dgpo.engines.trl.settings import hint_column

COLUMNS = {name: f"dgpo_{name}" for name in HINDSIGHT_STATS}
"""Fields of `TokenStats` to the keys of a rollout that hold them, (B, T) each."""

FIELDS = COLUMNS | {"hint_agreement": AGREEMENT}
"""All that a rule may read of hints: that, and how the rewards agree with them, (B,)."""


def hints_of(trainer: Any, inputs: Sequence[dict[str, Any]], outputs: dict[str, Tensor]) -> list[str | None]:
    """Return the hint of each completion of a rollout, None where there is none; whatever rank has what.

    Args:
        trainer: A `DGPOTrainer`.
        inputs: Rows of the data set, one a completion.
        outputs: The rollout, with group and reward.

    Returns:
        Texts, not longer than `hint_max_length` tokens.
    """
    args, tokenizer = trainer.args, trainer._tokenizer
    if args.hint == "peer":
        masks, rewards = outputs["completion_mask"].bool(), outputs[REWARD]
        shown = [
            tokenizer.decode(ids[mask], skip_special_tokens=True) if reward >= args.hint_min_reward else ""
            for ids, mask, reward in zip(outputs["completion_ids"], masks, rewards.tolist(), strict=True)
        ]
        shown = gather_object(shown)
        rewards, group, lengths = (trainer.accelerator.gather(x) for x in (rewards, outputs[GROUP], masks.sum(-1)))
        rows = best_sibling(rewards, group, lengths, args.hint_min_reward)[_own_rows(trainer, len(masks))]
        texts: list[str | None] = [None if row is None else shown[row] for row in rows]
    else:
        column = hint_column(args.hint)
        texts = _texts(inputs, column)
    return cut_hints(tokenizer, texts, args.hint_max_length)


def controls_of(
    trainer: Any, inputs: Sequence[dict[str, Any]], outputs: dict[str, Tensor], hints: Sequence[str | None]
) -> list[str | None]:
    """Return what each hint is compared with, None where there is nothing, by `hint_control`.

    Args:
        trainer: A `DGPOTrainer` whose hints are compared with others.
        inputs: Rows of the data set, one a completion.
        outputs: The rollout, with group.
        hints: Of `hints_of`.

    Returns:
        Texts, not longer than `hint_max_length` tokens.
    """
    args = trainer.args
    if args.hint_control == OTHER:
        others = other_hints(gather_object(list(hints)), trainer.accelerator.gather(outputs[GROUP]).tolist())
        return others[_own_rows(trainer, len(hints))]
    return cut_hints(trainer._tokenizer, _texts(inputs, args.hint_control), args.hint_max_length)


def _own_rows(trainer: Any, count: int) -> slice:
    """Where this rank's completions stand among those of all ranks, which have as many each."""
    first = trainer.accelerator.process_index * count
    return slice(first, first + count)


def _texts(inputs: Sequence[dict[str, Any]], column: str) -> list[str | None]:
    return [hint_text(row.get(column)) for row in inputs]


@torch.no_grad()
def hindsight_stats(
    trainer: Any, inputs: Sequence[dict[str, Any]], outputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], HintPairs]:
    """Return what the hinted reference thinks of a rollout.

    Args:
        trainer: A `DGPOTrainer` with a reference.
        inputs: Rows of the data set, one a completion.
        outputs: The rollout, with group and reward.

    Returns:
        What `FIELDS` names: d and i, (B, T) float32, 0 off the mask and in completions without a hint, or without one
        to compare it with, and the agreement of the hints with the rewards, (B,); and for the credit log the hints,
        `HINT`, and what they are compared with, `CONTROL`. And the pairs that the agreement is counted in.
    """
    hints = hints_of(trainer, inputs, outputs)
    controls: list[str | None] = [None] * len(hints)
    is_compared = trainer.args.hint_control != PLAIN
    if is_compared:
        controls = controls_of(trainer, inputs, outputs, hints)
        hints = [None if control is None else hint for hint, control in zip(hints, controls, strict=True)]
        controls = [None if hint is None else control for hint, control in zip(hints, controls, strict=True)]
    mask = outputs["completion_mask"]
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    found = {key: zeros.clone() for key in COLUMNS.values()}
    found[HINT] = texts_as_tensor([hint or "" for hint in hints]).to(mask.device)
    found[CONTROL] = texts_as_tensor(controls).to(mask.device)
    rows = [row for row, hint in enumerate(hints) if hint is not None]
    # A sharded model gathers its weights on all ranks at once, so that each makes the same number of passes.
    scored = list(range(len(hints))) if trainer.is_fsdp_enabled else rows
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(scored), size):
        part = scored[start : start + size]
        told, compared = (
            [_prompt(trainer, inputs[row]["prompt"], texts[row]) for row in part] for texts in (hints, controls)
        )
        stats = _pair_pass(trainer, told, compared if is_compared else None, outputs, part)
        log_ratio = stats["logps"] - stats["ref_logps"]
        for position, row in enumerate(part):
            if hints[row] is not None:
                found[COLUMNS["hindsight_hellinger_sq"]][row] = stats["hellinger_sq"][position]
                found[COLUMNS["hindsight_log_ratio"]][row] = log_ratio[position]
    pairs = _compared(trainer, outputs | found)
    found[AGREEMENT] = pairs.agreement
    return found, pairs


def _compared(trainer: Any, outputs: dict[str, Tensor]) -> HintPairs:
    """How the hints of this rank's completions agree with the rewards; a prompt's may be spread over ranks."""
    log_ratio, distance = (outputs[COLUMNS[name]] for name in ("hindsight_log_ratio", "hindsight_hellinger_sq"))
    totals = hint_totals(log_ratio, distance, trained_mask(outputs))
    compared = hint_pairs(*(trainer.accelerator.gather(x) for x in (totals, outputs[REWARD], outputs[GROUP])))
    return HintPairs(*(x[_own_rows(trainer, len(totals))] for x in compared))


def _prompt(trainer: Any, prompt: Any, hint: str | None) -> Any:
    return prompt if hint is None else hinted_prompt(prompt, hint, template_of(trainer.args))


def _pair_pass(
    trainer: Any, told: list[Any], compared: list[Any] | None, outputs: dict[str, Tensor], rows: list[int]
) -> dict[str, Tensor]:
    """Score some completions by the reference after prompts with a hint (`logps`), and after others (`ref_logps`).

    Those others are the prompts as they were sampled from, where `compared` is None.
    """
    index = torch.tensor(rows, device=outputs["completion_ids"].device)
    hinted = _padded(trainer, told, index.device)
    plain_ids = (outputs["prompt_ids"][index], outputs["prompt_mask"][index])
    others = plain_ids if compared is None else _padded(trainer, compared, index.device)
    completion_ids, completion_mask = (outputs[f"completion_{name}"][index] for name in ("ids", "mask"))
    length = completion_ids.size(1)

    def score(model: Any, ids: Tensor, mask: Tensor) -> None:
        row_ids, row_mask = torch.cat([ids, completion_ids], 1), torch.cat([mask, completion_mask], 1)
        score_frozen(trainer, model, row_ids, row_mask, length, is_sharded=trainer.is_fsdp_enabled)

    with reference_policy(trainer) as model:
        with heads.reference_pass(copy_head=trainer.is_fsdp_enabled) as plain:
            score(model, *others)
        with heads.policy_pass(plain[-1]) as stats:
            score(model, *hinted)
    return heads.per_completion(stats[-1], completion_mask.bool())


def _padded(trainer: Any, prompts: list[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of prompts and their mask, padded on the left."""
    ids = [torch.tensor(one) for one in trainer._tokenize_prompts(prompts)[0]]
    padded = pad(ids, padding_value=trainer._tokenizer.pad_token_id, padding_side="left")
    mask = pad([torch.ones_like(one) for one in ids], padding_value=0, padding_side="left")
    return padded.to(device), mask.to(device)
