"""What `DGPOConfig` adds to TRL's settings and every engine's; known without TRL, which takes seconds to load."""

import json
import re
from dataclasses import dataclass, field

from dgpo.config import CreditConfig
from dgpo.core import HINDSIGHT_STATS
from dgpo.core.numbers import check_not_negative
from dgpo.errors import ConfigError
from dgpo.rules import CreditRule

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""TRL's losses in which every token has an advantage of its own."""

_FIELDS = re.compile(r"\{prompt\}|\{hint\}")


@dataclass
class DGPOSettings(CreditConfig):
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
    reference_cache_mib: float = field(
        default=1024.0,
        metadata={"help": "MiB of the reference's states that are kept from one iteration to the next; 0: none."},
    )
    hint: str | None = field(
        default=None, metadata={"help": "What the reference is shown: 'gold', 'peer' or a column of the data set."}
    )
    hint_template: str | None = field(
        default=None, metadata={"help": "How prompt and hint are put together, with {prompt} and {hint}."}
    )
    hint_max_length: int = field(default=512, metadata={"help": "Longest hint in tokens."})
    hint_min_reward: float = field(
        default=1.0, metadata={"help": "Smallest reward of a completion that is shown to others as 'peer'."}
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
        self._check_hint(self.resolve_rule())

    def _check_hint(self, rule: CreditRule) -> None:
        if not rule.traits.needs_hint:
            if self.hint is not None:
                raise ConfigError(
                    f"hint={self.hint!r} is read by no credit rule: {rule.name} reads none of"
                    f" {', '.join(HINDSIGHT_STATS)}. Use credit_rule='hindsight', or leave hint out."
                )
            return
        self.hint = self.hint or "gold"
        if self.hint_template is not None and not {"{prompt}", "{hint}"} <= set(_FIELDS.findall(self.hint_template)):
            raise ConfigError(
                f"hint_template={self.hint_template!r} must contain {{prompt}} and {{hint}}, such as 'The answer is"
                " {hint}. {prompt}'."
            )
        if isinstance(self.hint_max_length, bool) or self.hint_max_length < 1:
            raise ConfigError(f"hint_max_length is {self.hint_max_length}; it counts tokens, 1 at least.")
