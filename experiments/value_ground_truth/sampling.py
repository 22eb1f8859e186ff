"""Samples completions and continuations of prefixes, from token ids to token ids; a prefix is read once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def tokens_with(tokenizer: Any, text: str) -> set[int]:
    """Return the tokens of a vocabulary whose text holds another one."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return {token for token, one in enumerate(texts) if text in one}


class Continuations:
    """Samples at temperature 1 from the whole distribution.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        stop: Any token whose text holds this ends a completion; `""`: the end tokens alone.
        batch_size: Rows at once.
    """

    def __init__(self, model: Any, tokenizer: Any, *, stop: str, batch_size: int) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        given = getattr(model.generation_config, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
        if stop:
            ends |= tokens_with(tokenizer, stop)
        self.ends = sorted(ends)

    def sample(self, prefixes: Sequence[Sequence[int]], budgets: Sequence[int], copies: int, seed: int) -> list[Any]:
        """Return `copies` continuations of each prefix.

        Args:
            prefixes: Token ids, prompt included, at least two each.
            budgets: Longest continuation of each.
            copies: How many of each.
            seed: Decides them all, together with the batches.

        Returns:
            Per prefix a list of lists of ids, without what ended them.
        """
        order = sorted(range(len(prefixes)), key=lambda index: len(prefixes[index]))
        per_batch = max(1, self.batch_size // copies)
        found: list[Any] = [None] * len(prefixes)
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(order), per_batch):
                rows = order[start : start + per_batch]
                ids = self._batch([prefixes[row] for row in rows], max(budgets[row] for row in rows), copies)
                for place, row in enumerate(rows):
                    mine = ids[place * copies : (place + 1) * copies]
                    found[row] = [self._cut(one, budgets[row]) for one in mine]
        return found

    @torch.no_grad()
    def _batch(self, prefixes: list[Sequence[int]], budget: int, copies: int) -> list[list[int]]:
        """Read the prefixes once, repeat what the model keeps of them, and go on from there."""
        from transformers import DynamicCache, GenerationConfig

        from dgpo.engines.trl.prompt_cache import CACHE

        padded = self.tokenizer.pad({"input_ids": [list(one) for one in prefixes]}, return_tensors="pt")
        ids, mask = padded["input_ids"].to(self.model.device), padded["attention_mask"].to(self.model.device)
        kept = None
        if ids.shape[1] > 1:
            kept = DynamicCache(config=self.model.config)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            self.model.base_model(
                input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], **{CACHE: kept}
            )
            kept.batch_repeat_interleave(copies)
        repeated: Tensor = ids.repeat_interleave(copies, 0)
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=budget, use_cache=True,
            eos_token_id=self.ends, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        output = self.model.generate(
            input_ids=repeated,
            attention_mask=mask.repeat_interleave(copies, 0),
            **{CACHE: kept},
            generation_config=config,
        )
        rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
        return rows

    def _cut(self, row: list[int], budget: int) -> list[int]:
        stop = next((index for index, token in enumerate(row) if token in self.ends), len(row))
        return row[: min(stop, budget)]
