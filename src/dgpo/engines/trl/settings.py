"""What `DGPOConfig` adds to TRL's settings and every engine's; known without TRL, which takes seconds to load."""

import json
from dataclasses import dataclass, field

from dgpo.core.numbers import check_not_negative
from dgpo.engines.hints import HintSettings
from dgpo.errors import ConfigError

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""TRL's losses in which every token has an advantage of its own."""


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
