"""The tiny model of the forks task: its tokenizer, and a supervised warm-up that leaves the picks to chance."""

import dataclasses
import hashlib
import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dgpo.errors import ConfigError
from dgpo.lab.models import build_once, cache_dir, quiet_saving
from dgpo.lab.progress import step_bar
from dgpo.lab.tasks.forks import language

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Part of the cache key: raise it when the language, the model or the training below changes.
_FORMAT = 1


@dataclass(frozen=True)
class WarmUpConfig:
    """What decides the weights of a warmed-up model; equal configurations give equal weights.

    Attributes:
        num_forks: Pairs per prompt.
        correctness: Probability that a demonstration picks the larger digit of a pair.
        seed: Of the initial weights and of the demonstrations.
        steps: Updates.
        batch_size: Demonstrations per update.
        learning_rate: The peak; it rises over the first 30 updates, then falls along a cosine to 5 %.
        hidden_size: Width of the model.
        num_layers: Depth of the model.
        num_heads: Attention heads.
    """

    num_forks: int = 4
    correctness: float = 0.5
    seed: int = 0
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4

    def __post_init__(self) -> None:
        for field in ("num_forks", "steps", "batch_size", "hidden_size", "num_layers", "num_heads"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"forks: {field} is {value!r}; it must be a whole number of at least 1.")
        if not 0 <= self.correctness <= 1:
            raise ConfigError(f"forks: correctness is {self.correctness!r}; it is a probability, from 0 to 1.")
        if self.hidden_size % (2 * self.num_heads):
            needed = f"{self.num_heads} heads need a multiple of {2 * self.num_heads}"
            raise ConfigError(f"forks: hidden_size is {self.hidden_size}; {needed}.")

    def key(self) -> str:
        """Return the name of the cache folder: every option, hashed, and the format.

        Returns:
            A name that only an equal configuration has.

        Example:
            >>> WarmUpConfig().key() == WarmUpConfig(seed=1).key()
            False
        """
        values = dataclasses.asdict(self)
        if self.num_heads == 4:
            del values["num_heads"]  # models have been cached without it
        options = json.dumps({**values, "format": _FORMAT, "words": language.WORDS}, sort_keys=True)
        return f"forks-{self.num_forks}-{hashlib.sha256(options.encode()).hexdigest()[:16]}"


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer: one token per word, `<bos>` in front, left padding.

    Returns:
        A fast tokenizer whose ids are `language.WORD_IDS`.

    Example:
        >>> build_tokenizer()("7 3 ?")["input_ids"]
        [2, 11, 7, 15]
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(dict(language.WORD_IDS), unk_token=language.UNK))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{language.BOS} $A", special_tokens=[(language.BOS, language.WORD_IDS[language.BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=language.PAD,
        eos_token=language.EOS,
        bos_token=language.BOS,
        unk_token=language.UNK,
        padding_side="left",
        # A model of one segment: without this the tokenizer would hand token_type_ids to `generate`.
        model_input_names=["input_ids", "attention_mask"],
        # The default glues "7 ?" into "7?".
        clean_up_tokenization_spaces=False,
    )


def build_model(config: WarmUpConfig) -> "LlamaForCausalLM":
    """Return the untrained model: a Llama with tied embeddings, 108,288 parameters at the default width and depth.

    Args:
        config: Width, depth, length and the seed of the weights; the global random state is left as it was.

    Returns:
        A model in float32 on the CPU.

    Example:
        >>> sum(parameter.numel() for parameter in build_model(WarmUpConfig()).parameters())
        108288
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    length = 3 * config.num_forks + 1 + language.completion_length(config.num_forks)
    ids = language.WORD_IDS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(language.WORDS),
                hidden_size=config.hidden_size,
                intermediate_size=3 * config.hidden_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                max_position_embeddings=max(128, length),
                tie_word_embeddings=True,
                pad_token_id=ids[language.PAD],
                eos_token_id=ids[language.EOS],
                bos_token_id=ids[language.BOS],
            )
        )


def warm_up_model(
    num_forks: int = 4,
    seed: int = 0,
    *,
    correctness: float = 0.5,
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    progress: bool = True,
) -> Path:
    """Return a folder with a model of the language of forks that picks by chance; it is made at the first call.

    It is trained on demonstrations (about 20 seconds of one core) and kept under `dgpo.lab.models.cache_dir()`, in a
    folder named after all options. The answer is right about `correctness ** num_forks` of the time.

    Args:
        num_forks: Pairs per prompt.
        seed: Of the initial weights and of the demonstrations.
        correctness: Probability that a demonstration picks the larger digit of a pair.
        steps: Updates.
        batch_size: Demonstrations per update.
        learning_rate: The peak of the schedule.
        hidden_size: Width of the model, a multiple of twice the heads.
        num_layers: Depth of the model.
        num_heads: Attention heads. vLLM needs heads of 32 or more: 2 of them.
        progress: Show a progress bar on the standard error.

    Returns:
        A folder for `from_pretrained`, model (safetensors) and tokenizer. Equal options give equal weights.

    Raises:
        ConfigError: If an option is out of range.
        DgpoError: If the cache folder cannot be written.

    Example:
        >>> import os, tempfile
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, DGPO_CACHE=tempfile.mkdtemp()):
        ...     folder = warm_up_model(num_forks=1, steps=2, progress=False)
        >>> sorted(path.name for path in folder.glob("*.safetensors"))
        ['model.safetensors']
    """
    config = WarmUpConfig(
        num_forks=num_forks,
        correctness=correctness,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
    )

    def build(folder: Path) -> None:
        model = _warmed_up(config, progress=progress)
        with quiet_saving():
            model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        (folder / "warm_up.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")

    return build_once(cache_dir() / "forks" / config.key(), build)


def _warmed_up(config: WarmUpConfig, *, progress: bool) -> "LlamaForCausalLM":
    model = build_model(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    prompt_length = 3 * config.num_forks + 1
    bar = step_bar("warming up the forks model", config.steps, figure="loss", show=progress)
    with _one_thread(), bar as advance:
        for batch in islice(_batches(config), config.steps):
            logits = model(batch).logits[:, prompt_length - 1 : -1]
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, prompt_length:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(loss.item())
    return model.eval()


def _batches(config: WarmUpConfig) -> Iterator[torch.Tensor]:
    """Demonstrations as ids: prompt, completion, `<eos>`; all of one length, (batch, tokens), int64."""
    rng = random.Random(f"forks warm-up {config.seed}")
    prompts = language.draw_forks(config.num_forks, rng, held_out=False)
    bos, eos = language.WORD_IDS[language.BOS], language.WORD_IDS[language.EOS]
    while True:
        yield torch.tensor(
            [
                [
                    bos,
                    *language.encode(language.prompt_text(forks)),
                    *language.encode(language.demonstration(forks, config.correctness, rng)),
                    eos,
                ]
                for forks in islice(prompts, config.batch_size)
            ]
        )


def _rate(step: int, steps: int) -> float:
    """Linear rise over 30 updates, times a cosine from 1 to 0.05."""
    return min(1.0, (step + 1) / 30) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a model gains nothing from more, and the order of its sums no longer depends on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
