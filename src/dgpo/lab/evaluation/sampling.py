"""Samples completions: with vLLM where it is installed, with transformers otherwise, behind one interface."""

import hashlib
import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dgpo.errors import ConfigError
from dgpo.lab.evaluation.loading import load_model, load_tokenizer
from dgpo.lab.tasks.layouts import Prompt
from dgpo.lab.tasks.prompting import PromptFormat


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        temperature: 0 is greedy.
        top_p: From above 0 to 1.
        max_tokens: Longest completion.
        seed: Decides every completion, together with its batch (transformers) or its problem and number (vLLM).
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name, value, fits, rule in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more, and finite"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
        ):
            if not fits:
                raise ConfigError(f"{name} is {value}, and must be {rule}.")


class Request(NamedTuple):
    """One completion that is wanted.

    Attributes:
        prompt: Text, or chat messages.
        problem: Name of the problem.
        sample: Which of its completions.
    """

    prompt: Prompt
    problem: str
    sample: int


class Completion(NamedTuple):
    """One completion.

    Attributes:
        text: The sampled text, without special tokens.
        tokens: Its length, the end token included.
        truncated: Whether it ended without an end token.
    """

    text: str
    tokens: int
    truncated: bool


class Sampler(Protocol):
    """What samples completions."""

    tokenizer: Any
    prompts: PromptFormat

    def sample(self, requests: Sequence[Request], sampling: Sampling, batch: int) -> list[Completion]:
        """Return one completion per request; equal batches with equal seeds give equal completions."""

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return a prompt as the model reads it."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and completion that the model can hold."""


def seed_of(*parts: Any) -> int:
    """Return a seed that depends on all parts.

    Args:
        *parts: Anything with a faithful `repr`.

    Returns:
        From 0 to 2**63 - 1.

    Example:
        >>> seed_of(0, "a", 1) == seed_of(0, "a", 2)
        False
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class TransformersSampler:
    """Samples with `generate` of transformers, a batch at a time, with its KV cache.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: How prompts are put to the model.
    """

    def __init__(self, model: Any, tokenizer: Any, prompts: PromptFormat | None = None) -> None:
        self.model, self.tokenizer, self.prompts = model, tokenizer, prompts or PromptFormat()

    @classmethod
    def load(
        cls, model: str, *, dtype: str = "auto", device: str | None = None, prompts: PromptFormat | None = None
    ) -> "TransformersSampler":
        """Return a sampler of a model folder or hub id.

        Args:
            model: Folder or hub id.
            dtype: `auto` is bfloat16 on a GPU, float32 elsewhere.
            device: Such as `"cuda:1"`; by default a GPU if there is one.
            prompts: How prompts are put to the model.

        Returns:
            The sampler.

        Raises:
            ConfigError: If the model cannot be loaded.
        """
        tokenizer = load_tokenizer(model)
        return cls(load_model(model, dtype=dtype, device=device), tokenizer, prompts)

    @property
    def context(self) -> int | None:
        """Positions of the model."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        """Rows of the model's embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return a prompt as ids."""
        return self.prompts.ids(prompt, self.tokenizer)

    def sample(self, requests: Sequence[Request], sampling: Sampling, batch: int) -> list[Completion]:
        """Return one completion per request; the seed of the batch decides them all."""
        import torch

        prompts = [self.prompt_tokens(request.prompt) for request in requests]
        device = self.model.device
        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to(device)
        ends = self._end_tokens()
        config = self._config(sampling, ends)
        with _seeded(seed_of(sampling.seed, batch), device), _only_settings(self.model, config), torch.no_grad():
            output = self.model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
            )
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._completion(row, ends) for row in rows]

    def _completion(self, row: list[int], ends: set[int]) -> Completion:
        """A row of ids up to its first end token."""
        stop = next((index for index, token in enumerate(row) if token in ends), None)
        ids = row if stop is None else row[:stop]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(text, len(ids) + (stop is not None), stop is None)

    def _end_tokens(self) -> set[int]:
        given = getattr(self.model, "generation_config", None)
        ends = given.eos_token_id if given is not None else None
        listed = ends if isinstance(ends, list) else [ends]
        return {end for end in (*listed, self.tokenizer.eos_token_id) if end is not None}

    def _config(self, sampling: Sampling, ends: set[int]) -> Any:
        from transformers import GenerationConfig

        drawn = sampling.temperature > 0
        options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if drawn else {}
        return GenerationConfig(
            do_sample=drawn,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **options,
        )


def choose_backend(wanted: str) -> str:
    """Return the backend to use.

    Args:
        wanted: `auto`, `vllm` or `transformers`.

    Returns:
        `"vllm"` or `"transformers"`.

    Raises:
        ConfigError: If it is neither, or vLLM is asked for and not installed.

    Example:
        >>> choose_backend("transformers")
        'transformers'
    """
    installed = importlib.util.find_spec("vllm") is not None
    if wanted == "auto":
        return "vllm" if installed else "transformers"
    if wanted not in ("vllm", "transformers"):
        raise ConfigError(f"there is no backend {wanted!r}; there are: auto, vllm, transformers.")
    if wanted == "vllm" and not installed:
        raise ConfigError("vLLM is not installed: pip install vllm, or use --backend transformers.")
    return wanted


@contextmanager
def _only_settings(model: Any, config: Any) -> Iterator[None]:
    """Replace the model's own generation settings, which would fill in what these leave open, such as top_k."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    owners = {id(owner): owner for owner in (model, base) if "generation_config" in vars(owner)}.values()
    stored = [(owner, owner.generation_config) for owner in owners]
    try:
        for owner in owners:
            owner.generation_config = config
        yield
    finally:
        for owner, own in stored:
            owner.generation_config = own


@contextmanager
def _seeded(seed: int, device: Any) -> Iterator[None]:
    """Seed the generators inside, and restore their state afterwards."""
    import torch

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(seed)
        yield
