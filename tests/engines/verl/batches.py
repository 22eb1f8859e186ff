"""Batches as verl's TransferQueue gives them: four rows with their statistics, and eight to be scored."""

import torch
from support import VOCAB

from dgpo.engines.verl.credit import token_stats

LENGTHS = (3, 2, 4, 1)  # the last row is padding
KEYS = ("b_0_0", "a_0_0", "b_1_0", "pad_0_0")


PROMPTS, RESPONSES = (5, 9, 7, 6, 4, 11, 3, 8), (8, 3, 10, 6, 1, 7, 12, 2)
PADDING_ROW = 4  # nothing of it is trained


def jagged(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def rows_of_batch(seed, dead=()):
    """Eight rows: tokens, length of the prompt, mask, and a score, 0 in those named."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.randint(4, VOCAB - 1, (prompt + response,), generator=generator)
        mask = torch.full((response,), int(index != PADDING_ROW))
        if index == 2:
            mask[3:5] = 0  # a tool's answer
        score = torch.randn((), generator=generator)
        rows.append((ids, prompt, mask, score * (index not in dead)))
    return rows


def tensors_of_rows(rows):
    """The fields of such rows that an engine reads."""
    return {
        "prompts": jagged(ids[:prompt] for ids, prompt, _, _ in rows),
        "responses": jagged(ids[prompt:] for ids, prompt, _, _ in rows),
        "input_ids": jagged(ids for ids, *_ in rows),
        "position_ids": jagged(torch.arange(len(ids)) for ids, *_ in rows),
        "response_mask": jagged(mask for _, _, mask, _ in rows),
        "loss_mask": jagged(mask for _, _, mask, _ in rows),
    }


def nested(rows):
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


def sequences(rows):
    """Whole sequences: two tokens of a prompt before; the value of a token stands one place before it."""
    return nested([[9.0, *row, 9.0] for row in rows])


def batch(**changed):
    """Four rows by verl's names; the middle token of the third was not sampled by the policy."""
    mask = [[1, 1, 1], [1, 1], [1, 0, 1, 1], [0]]
    per_token = [[0.1, 0.2, 0.3], [0.4, 0.5], [0.1, 0.9, 0.2, 0.2], [0.7]]
    advantages = [1.0, -0.5, -1.0, 0.0]
    return {
        "response_mask": nested(mask),
        "advantages": nested([[a * m for m in row] for a, row in zip(advantages, mask, strict=True)]),
        "rm_scores": nested([[0.0, 0.0, 1.0], [0.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.0]]),
        "old_log_probs": nested([[-1.0] * length for length in LENGTHS]),
        "entropy": nested(per_token),
        "hellinger_sq": sequences(per_token),
        "ref_log_probs": sequences([[-1.5] * length for length in LENGTHS]),
        **changed,
    }


def stats_of(data):
    return token_stats(data, KEYS, vocab_size=8, is_padding=[False, False, False, True])
