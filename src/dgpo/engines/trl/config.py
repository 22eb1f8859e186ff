"""`DGPOConfig`: TRL's `GRPOConfig` and the few knobs that DGPO adds."""

from dataclasses import dataclass, field

from trl import GRPOConfig

from dgpo.core.checks import check_not_negative, check_positive
from dgpo.errors import RecipeError

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""TRL's losses in which every token has an advantage of its own."""

CREDIT_POLICIES = ("current", "old")


@dataclass
class DGPOConfig(GRPOConfig):
    """Arguments of `DGPOTrainer`: all of `GRPOConfig`, and the following.

    `beta` keeps TRL's meaning and default (0: no KL penalty, as in the paper); the reference model is built either way.

    Attributes:
        tau: Temperature of the redistribution, above 0. Small: few tokens take the credit; large: GRPO.
        kappa: Exponent of the entropy gate, at least 0; 0 switches it off.
        credit_policy: Whose distribution gives the credit. `"current"`: the policy being updated. `"old"`: the policy
            that sampled; the weights are then fixed per rollout and the reference is scored once, however many updates
            (`num_iterations`) are made. The two are equal when one update is made per rollout.
        inert_warning_steps: After this many steps in a row in which every weight was within 0.01 of 1, a warning says
            so once and names the knob that matters; 0 switches it off.
        credit_log_steps: Write the credit of every token of a few completions to `output_dir/credit/` at step 1, at
            every so many steps, and at the last one, for `dgpo report`; also as a table to W&B, Trackio or TensorBoard
            where `report_to` names them. 0, the default, writes nothing and costs nothing.
        credit_log_completions: How many completions a logged step keeps, of those of the main process.

    Raises:
        RecipeError: For a value that cannot work, naming the value and the remedy.

    Example:
        >>> from dgpo import DGPOConfig
        >>> DGPOConfig(output_dir="runs/example", tau=0.1, use_cpu=True, report_to=[]).tau
        0.1
    """

    tau: float = field(
        default=0.5,
        metadata={"help": "Temperature of the redistribution; small: few tokens take the credit, large: GRPO."},
    )
    kappa: float = field(
        default=1.0,
        metadata={"help": "Exponent of the entropy gate; 0 switches it off."},
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
        metadata={"help": "How many completions a step of the credit log keeps."},
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is loaded."""
        try:
            self.tau = check_positive("tau", self.tau, "The paper uses 0.5; larger values come closer to GRPO.")
            self.kappa = check_not_negative("kappa", self.kappa, "Use 0 for no entropy gate, 1 for the paper's.")
        except ValueError as error:
            raise RecipeError(str(error)) from None
        self._check_choices()
        super().__post_init__()

    def _check_choices(self) -> None:
        if self.credit_policy not in CREDIT_POLICIES:
            raise RecipeError(f"credit_policy must be 'current' or 'old', got {self.credit_policy!r}.")
        if self.inert_warning_steps < 0:
            raise RecipeError(f"inert_warning_steps must be at least 0, got {self.inert_warning_steps!r}.")
        if self.credit_log_steps < 0:
            raise RecipeError(f"credit_log_steps must be at least 0 (0: no log), got {self.credit_log_steps!r}.")
        if self.credit_log_completions < 1:
            raise RecipeError(
                f"credit_log_completions must be at least 1, got {self.credit_log_completions!r}. credit_log_steps=0"
                " switches the log off."
            )
        if self.loss_type not in SUPPORTED_LOSS_TYPES:
            raise RecipeError(
                f"loss_type={self.loss_type!r} weighs whole completions, and DGPO redistributes the credit inside of"
                f" them. Use one of {', '.join(SUPPORTED_LOSS_TYPES)}."
            )
        if self.importance_sampling_level != "token":
            raise RecipeError(
                f"importance_sampling_level={self.importance_sampling_level!r} gives all tokens of a completion one"
                " ratio; weights with mean 1 would cancel and leave plain sequence-level GRPO. Use 'token'."
            )
