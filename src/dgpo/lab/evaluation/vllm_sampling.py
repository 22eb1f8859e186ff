"""Samples completions with vLLM; nothing of it is loaded before an engine is made."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dgpo.lab.evaluation.loading import load_tokenizer
from dgpo.lab.evaluation.sampling import Completion, Request, Sampling, seed_of
from dgpo.lab.tasks.layouts import Prompt
from dgpo.lab.tasks.prompting import PromptFormat


class VllmSampler:
    """Samples with vLLM; every completion has a seed of its own, so batches do not matter.

    Args:
        model: Folder or hub id.
        dtype: vLLM's own name for it, `auto` by default.
        options: More arguments of `vllm.LLM`, such as `tensor_parallel_size` or `max_model_len`.
        prompts: How prompts are put to the model.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        prompts: PromptFormat | None = None,
    ) -> None:
        # In a process of its own an engine does not notice that a killed evaluation is gone, and keeps its memory.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM

        self.prompts = prompts or PromptFormat()

        self.tokenizer = load_tokenizer(model)
        self.engine = LLM(model=model, **{"dtype": dtype, "seed": 0, **(options or {})})

    @property
    def context(self) -> int | None:
        """Tokens that the engine was set up for."""
        return int(self.engine.llm_engine.model_config.max_model_len)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return a prompt as ids."""
        return self.prompts.ids(prompt, self.tokenizer)

    def sample(self, requests: Sequence[Request], sampling: Sampling, batch: int) -> list[Completion]:
        """Return one completion per request."""
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": self.prompt_tokens(request.prompt)} for request in requests],
            [
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=seed_of(sampling.seed, request.problem, request.sample),
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        choices = [output.outputs[0] for output in outputs]
        # "stop" is the end that the model chose; "length", and what newer versions add, are not.
        return [Completion(c.text, len(c.token_ids), c.finish_reason != "stop") for c in choices]
