"""What `DGPOConfig` adds to TRL's settings and every engine's; known without TRL, which takes seconds to load."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dgpo.core.numbers import check_not_negative
from dgpo.engines.hints import OTHER, PLAIN, HintSettings
from dgpo.errors import ConfigError

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""TRL's losses in which every token has an advantage of its own."""

GOLD_COLUMN = "answer"
"""The column of the data set that `hint="gold"` reads."""


@dataclass
class DGPOSettings(HintSettings):
    """The fields of `DGPOConfig`, described there, that are not TRL's."""

    credit_log_answer: str | None = field(
        default=None, metadata={"help": "Column of the data set with the gold answer, for the credit log."}
    )
    skip_zero_advantage: bool = field(
        default=True,
        metadata={"help": "Leave completions with advantage 0 out of the passes; their gradient is 0."},
    )
    sort_by_length: bool = field(
        default=False,
        metadata={"help": "Sort completions by length before micro-batches are cut, and score those without padding."},
    )
    padding_free: bool = field(
        default=False,
        metadata={"help": "Score completions as one row without any padding; needs flash attention."},
    )
    overlap_reference: bool = field(
        default=False,
        metadata={"help": "Run the reference while rewards are computed; pays where rewards wait for other machines."},
    )
    reference_cache_mib: float = field(
        default=1024.0,
        metadata={"help": "MiB of the reference's states that are kept from one iteration to the next; 0: none."},
    )

    def check_settings(self) -> None:
        """Refuse what cannot work, and set `tau`, `kappa` and `hint` to what the rule uses.

        Raises:
            ConfigError: Naming the value and the remedy.
        """
        if isinstance(self.credit_options, str):  # transformers' command line gives JSON
            self.credit_options = json.loads(self.credit_options)
        try:
            check_not_negative("reference_cache_mib", self.reference_cache_mib, "It counts MiB; 0 keeps nothing.")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.check_hint(self.resolve_rule())


def hint_column(hint: str) -> str:
    """Return the column of the data set that holds the hints."""
    return GOLD_COLUMN if hint == "gold" else hint


def check_hint_data(args: Any, columns: Sequence[str] | None) -> None:
    """Refuse a column of hints that the data set lacks, and a batch in which no prompt has another beside it.

    Args:
        args: A `DGPOConfig`, or the fields of one; without a hint where the rule reads none.
        columns: Of the data set; None where they are not known.

    Raises:
        ConfigError: Naming the value and the remedy.
    """
    for name, keywords, remedy in (
        ("hint", ["peer"], "hint='peer', which shows a completion the solution of another one"),
        ("hint_control", [OTHER, PLAIN], "hint_control='other', which compares with the hint of another prompt"),
    ):
        value = getattr(args, name)
        column = hint_column(value) if name == "hint" else value
        if value not in (None, *keywords) and columns is not None and column not in columns:
            raise ConfigError(
                f"{name}={value!r} reads the column {column!r}, and the data set has {', '.join(columns)}. Name one of"
                f" its columns, or use {remedy}."
            )
    size, rows, needed = args.per_device_train_batch_size, args.generation_batch_size, 2 * args.num_generations
    if args.hint_control == OTHER and rows <= args.num_generations:
        processes = rows // (size * args.steps_per_generation)
        raise ConfigError(
            f"hint_control='other', the default, compares with the hint of another prompt, and a rollout has {rows}"
            f" completions, {args.num_generations} of each. Raise per_device_train_batch_size to"
            f" {-(-needed // processes)}, or gradient_accumulation_steps to {-(-needed // (size * processes))}; or name"
            " a column of hints to compare with; or set hint_control='plain', for a model that was taught to read"
            " hints."
        )
