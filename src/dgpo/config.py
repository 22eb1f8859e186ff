"""The settings that every engine has: which rule gives the credit, whose distribution, and what is logged of it."""

from dataclasses import dataclass, field
from typing import Any

from dgpo.core.numbers import check_not_negative, check_positive
from dgpo.errors import ConfigError
from dgpo.rules import CreditRule, resolve

CREDIT_POLICIES = ("current", "old")


@dataclass
class CreditConfig:
    """Settings of the credit, the same for TRL and verl.

    Attributes:
        credit_rule: A rule's name (`dgpo`, `even`, `entropy`, ...), `"module:function"` or `"file.py:function"`.
        credit_options: Keyword arguments of the rule.
        tau: Temperature of the redistribution, above 0. Small: few tokens take the credit; large: GRPO. A short way to
            say `credit_options={"tau": ...}`; refused where the rule has no such option, None there.
        kappa: Exponent of the entropy gate, at least 0; 0 switches it off. Likewise.
        credit_policy: Whose distribution gives the credit. `"current"`: the policy being updated. `"old"`: the policy
            that sampled; the weights are then fixed per rollout and the reference is scored once, however many updates
            (`num_iterations`) are made. The two are equal when one update is made per rollout.
        inert_warning_steps: After this many steps in a row in which every weight was within 0.01 of 1, a warning says
            so once and names the knob that matters; 0 switches it off.
        credit_log_steps: Write the credit of every token of a few completions to `output_dir/credit/` at step 1, at
            every so many steps, and at the last one, for `dgpo report`; also as a table to W&B, Trackio or TensorBoard
            where `report_to` names them. 0, the default, writes nothing and costs nothing.
        credit_log_completions: How many completions a logged step keeps, of those of the main process: as many whole
            groups as there is room for, those with an advantage first.

    Raises:
        ConfigError: For a value that cannot work, naming the value and the remedy.
    """

    credit_rule: str = field(
        default="dgpo",
        metadata={"help": "Rule that gives the credit: a name, 'module:function' or 'file.py:function'."},
    )
    credit_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the rule, such as credit_options.cap of 'capped'."}
    )
    tau: float | None = field(
        default=None,
        metadata={"help": "Temperature of the redistribution (0.5); small: few tokens take the credit, large: GRPO."},
    )
    kappa: float | None = field(
        default=None,
        metadata={"help": "Exponent of the entropy gate (1); 0 switches it off."},
    )
    credit_policy: str = field(
        default="current",
        metadata={
            "help": "Whose distribution gives the credit: 'current' (being updated) or 'old' (that sampled).",
            "choices": list(CREDIT_POLICIES),
        },
    )
    inert_warning_steps: int = field(
        default=50,
        metadata={"help": "Warn once after this many steps in a row with all weights within 0.01 of 1; 0: never."},
    )
    credit_log_steps: int = field(
        default=0,
        metadata={"help": "Log the credit of every token of a few completions every so many steps; 0: never."},
    )
    credit_log_completions: int = field(
        default=8,
        metadata={"help": "How many completions a step of the credit log keeps, in whole groups."},
    )

    def resolve_rule(self, prefix: str = "") -> CreditRule:
        """Return the rule with its options, and set `tau` and `kappa` to what it uses; refuse what cannot work.

        Args:
            prefix: Stands in front of the names of settings in messages, such as `"algorithm.dgpo."`.

        Returns:
            The rule. Resolve it again in another process: a name travels, a function may not.

        Raises:
            ConfigError: See the class.
        """
        self._check_values(prefix)
        options = dict(self.credit_options)
        for name in ("tau", "kappa"):
            value = getattr(self, name)
            if value is not None and options.setdefault(name, value) != value:
                raise ConfigError(
                    f"{prefix}{name}={value!r} and credit_options.{name}={options[name]!r} contradict each other; give"
                    " one of them."
                )
        rule = resolve(self.credit_rule, **options)
        self.tau, self.kappa = rule.options.get("tau"), rule.options.get("kappa")
        return rule

    def _check_values(self, prefix: str) -> None:
        try:
            if self.tau is not None:
                remedy = "The paper uses 0.5; larger values come closer to GRPO."
                self.tau = check_positive(f"{prefix}tau", self.tau, remedy)
            if self.kappa is not None:
                remedy = "Use 0 for no entropy gate, 1 for the paper's."
                self.kappa = check_not_negative(f"{prefix}kappa", self.kappa, remedy)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.credit_policy not in CREDIT_POLICIES:
            raise ConfigError(f"{prefix}credit_policy must be 'current' or 'old', got {self.credit_policy!r}.")
        for name, least in (("inert_warning_steps", 0), ("credit_log_steps", 0), ("credit_log_completions", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                remedy = " 0 switches it off." if least == 0 else " credit_log_steps=0 switches the log off."
                raise ConfigError(f"{prefix}{name} must be a whole number of at least {least}, got {value!r}.{remedy}")
