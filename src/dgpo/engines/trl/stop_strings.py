"""`stop_strings` of `generation_kwargs`: transformers needs the tokenizer for them, and pads behind them."""

import functools
from typing import Any

from dgpo.errors import ConfigError


class StopStrings:
    """Mixin of `DGPOTrainer`; nothing changes where there are no stop strings."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    eos_token_ids: list[int]
    model: Any
    use_vllm: bool
    _tokenizer: Any

    def _init_stop_strings(self) -> None:
        """Let `generate` of the policy find the stop strings; TRL does not pass the tokenizer on."""
        given = (self.args.generation_kwargs or {}).get("stop_strings") or []
        self._stop_strings = [given] if isinstance(given, str) else list(given)
        if not self._stop_strings:
            return
        if self.use_vllm:
            raise ConfigError("generation_kwargs: vLLM calls stop_strings `stop`; write {stop: [...]}.")
        if self.args.mask_truncated_completions:
            raise ConfigError(
                "mask_truncated_completions=True would mask every completion that ends in one of stop_strings, as it"
                " has no end token. Leave one of the two out."
            )
        policy = self.accelerator.unwrap_model(self.model)
        policy.generate = functools.partial(policy.generate, tokenizer=self._tokenizer)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's completions, cut where their stop string ends: what follows was padded, not sampled."""
        completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        if self._stop_strings:
            completion_ids = [self._without_padding(ids) for ids in completion_ids]
        return completion_ids, logprobs

    def _without_padding(self, ids: list[int]) -> list[int]:
        padding = {self._tokenizer.pad_token_id, *self.eos_token_ids}
        count = len(ids)
        while count > 1 and ids[count - 1] in padding:
            count -= 1
        text = self._tokenizer.decode(ids[:count], skip_special_tokens=False)
        return ids[:count] if any(string in text for string in self._stop_strings) else ids
