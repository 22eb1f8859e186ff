"""DGPO's settings under `algorithm.dgpo` of verl's configuration, and what they change in the rest of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dgpo.core.checks import check_not_negative, check_positive
from dgpo.errors import RecipeError

TRAINER_MODE = "dgpo"
"""Value of `trainer.v1.trainer_mode` that chooses DGPO."""

_BASE_MODE = "sync"


@dataclass(frozen=True)
class DGPOSettings:
    """The keys of `algorithm.dgpo`, with the meaning that they have in `DGPOConfig` of the TRL engine.

    Attributes:
        tau: Temperature of the redistribution, above 0.
        kappa: Exponent of the entropy gate, at least 0.
        credit_policy: `"old"`: the policy that sampled gives the credit, in verl's pass of old log-probabilities.
        inert_warning_steps: Warn once after this many steps in a row with all weights within 0.01 of 1; 0: never.
        credit_log_steps: Write the credit of every token of a few completions to `trainer.default_local_dir`/credit at
            step 1 and every so many steps; 0: never.
        credit_log_completions: How many completions a logged step keeps.

    Raises:
        RecipeError: For a value that cannot work, naming the value and the remedy.

    Example:
        >>> DGPOSettings(tau=0.1).kappa
        1.0
    """

    tau: float = 0.5
    kappa: float = 1.0
    credit_policy: str = "old"
    inert_warning_steps: int = 50
    credit_log_steps: int = 0
    credit_log_completions: int = 8

    def __post_init__(self) -> None:
        try:
            check_positive("algorithm.dgpo.tau", self.tau, "The paper uses 0.5; larger values come closer to GRPO.")
            check_not_negative("algorithm.dgpo.kappa", self.kappa, "Use 0 for no entropy gate, 1 for the paper's.")
        except (TypeError, ValueError) as error:
            raise RecipeError(str(error)) from None
        if self.credit_policy != "old":
            raise RecipeError(
                f"algorithm.dgpo.credit_policy={self.credit_policy!r} is not built for verl: the weights come from its"
                " pass of old log-probabilities. Use 'old'; the two are equal where one update is made per batch."
            )
        for name, least in (("inert_warning_steps", 0), ("credit_log_steps", 0), ("credit_log_completions", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"algorithm.dgpo.{name} must be a whole number of at least {least}, got {value!r}.")


def read_settings(config: Any) -> DGPOSettings:
    """Return DGPO's settings of a run.

    Args:
        config: verl's whole configuration, a `DictConfig` or nested dicts.

    Returns:
        The settings, defaults where a key is not given.

    Raises:
        RecipeError: For a key that does not exist or a value that cannot work.

    Example:
        >>> read_settings({"algorithm": {"dgpo": {"tau": 0.2}}}).tau
        0.2
    """
    given = config["algorithm"].get("dgpo")
    given = {} if given is None else given
    names = [field.name for field in fields(DGPOSettings)]
    if not isinstance(given, Mapping) and not hasattr(given, "items"):
        raise RecipeError(
            f"algorithm.dgpo must hold {', '.join(names)}, got {given!r}. trainer.v1.trainer_mode switches DGPO on"
            f" ({TRAINER_MODE}) and off (sync)."
        )
    values = dict(given.items())
    for name in values:
        if name not in names:
            raise RecipeError(f"algorithm.dgpo.{name} is not a setting of DGPO. There are: {', '.join(names)}.")
    return DGPOSettings(**values)


def prepare_config(config: Any) -> None:
    """Change verl's configuration so that it builds what DGPO needs; in place.

    - `trainer.v1.trainer_mode` becomes `sync`: verl branches on this literal in several places.
    - A reference policy is built, which verl does only for a KL penalty: `use_kl_loss` is set, and
      `actor_rollout_ref.dgpo_kl_loss` tells the workers what it was, who put it back before they build the loss.

    Args:
        config: verl's whole configuration, a `DictConfig`.
    """
    from omegaconf import open_dict

    with open_dict(config):
        part = config.actor_rollout_ref
        config.trainer.v1.trainer_mode = _BASE_MODE
        part.dgpo_kl_loss = bool(part.actor.use_kl_loss)
        part.actor.use_kl_loss = True
        # The reference is scored in the policy's micro-batches; verl wants sizes of its own for it all the same.
        for key in ("log_prob_micro_batch_size_per_gpu", "log_prob_max_token_len_per_gpu", "log_prob_use_dynamic_bsz"):
            if part.ref.get(key) is None:
                part.ref[key] = part.rollout.get(key)
