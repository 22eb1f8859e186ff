"""DGPO's settings under `algorithm.dgpo` of verl's configuration, and what they change in the rest of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgpo.engines.hints import HintSettings
from dgpo.errors import ConfigError
from dgpo.names import did_you_mean
from dgpo.rules import CreditRule, fipo

TRAINER_MODES = {"dgpo": "sync", "dgpo_colocate_async": "colocate_async"}
"""Values of `trainer.v1.trainer_mode` that choose DGPO, and verl's modes that they extend."""

SEPARATE_ASYNC = "dgpo_separate_async"
"""The mode that is not built, and is refused by this name."""

_PREFIX = "algorithm.dgpo."
_ATTRIBUTES = {
    **{name: name for name in ("tau", "kappa")},
    "rule": "credit_rule",
    "options": "credit_options",
    **{name: name for name in ("credit_policy", "skip_zero_advantage", "inert_warning_steps")},
    **{name: name for name in ("credit_log_steps", "credit_log_completions")},
    **{name: name for name in ("hint", "hint_template", "hint_control", "hint_max_length", "hint_min_reward")},
}
"""Keys of `algorithm.dgpo` and the attributes of `CreditConfig` that they set."""


def given(options: Mapping[str, Any]) -> list[str]:
    """Return the names of what holds.

    Args:
        options: What a message would say, and whether it holds.

    Returns:
        In their order.

    Example:
        >>> import dgpo.engines.verl.config as config
        >>> config.given({"trainer.device=cuda": True, "actor.strategy=fsdp": False})
        ['trainer.device=cuda']
    """
    return [option for option, is_given in options.items() if is_given]


@dataclass
class DGPOSettings(HintSettings):
    """The settings of `algorithm.dgpo`: those of `HintSettings`, where `rule` and `options` are short names.

    Attributes:
        credit_policy: `"old"`: the policy that sampled gives the credit, in verl's pass of old log-probabilities.
        skip_zero_advantage: Leave completions whose advantage is 0 out of the passes over policy and reference, where
            nothing reads them.
        credit_log_steps: Write the credit of every token of a few completions to `trainer.default_local_dir`/credit at
            step 1 and every so many steps; 0: never.
        hint: What the reference is shown, for a rule that reads it: `"gold"`, the data set's
            `reward_model.ground_truth`; the name of an entry of its `extra_info`; or `"peer"`, another completion of
            the prompt that is right. None: `"gold"` where the rule reads a hint.
        hint_control: What the hinted reference is compared with: `"other"`, the prompt with another prompt's hint; the
            name of an entry of `extra_info`; or `"plain"`, the prompt without any. None: `"other"` where the rule reads
            a hint.
        rule: The rule with its options, from `credit_rule`, `credit_options`, `tau` and `kappa`.

    Raises:
        ConfigError: For a value that cannot work, naming the key, the value and the remedy.

    Example:
        >>> settings = DGPOSettings(tau=0.1)
        >>> settings.kappa
        1.0
        >>> str(settings.rule)
        'dgpo(tau=0.1, kappa=1.0)'
    """

    credit_policy: str = "old"
    skip_zero_advantage: bool = True
    rule: CreditRule = field(init=False)

    def __post_init__(self) -> None:
        self.rule = self._resolve()
        if self.credit_policy != "old":
            raise ConfigError(
                f"{_PREFIX}credit_policy={self.credit_policy!r} is not built for verl: the weights come from its"
                " pass of old log-probabilities. Use 'old'; the two are equal where one update is made per batch."
            )
        if not isinstance(self.skip_zero_advantage, bool):
            raise ConfigError(f"{_PREFIX}skip_zero_advantage must be True or False, got {self.skip_zero_advantage!r}.")
        if "kl" in self.rule.traits.reads:
            raise ConfigError(
                f"{_PREFIX}rule={self.credit_rule!r} reads kl, the divergence over the vocabulary, which verl's pass of"
                " old log-probabilities does not give. hellinger_sq and ref_logps it gives: use a rule that reads no"
                " other of the three."
            )
        self.check_hint(self.rule, _PREFIX)
        if self.rule.function is fipo:
            raise ConfigError(
                f"{_PREFIX}rule={self.credit_rule!r} weighs tokens by the policy's change since it sampled, and under"
                " verl the credit is given before the first update, where there is none: all weights would be 1, which"
                " is rule='even'."
            )

    def _resolve(self) -> CreditRule:
        try:
            return self.resolve_rule(_PREFIX)
        except ConfigError as error:
            message = str(error)
        message = message.replace("credit_options.", f"{_PREFIX}options.")
        if _PREFIX not in message:
            message = f"{_PREFIX}rule={self.credit_rule!r}: {message}"
        for name in ("tau", "kappa"):
            if f"no option {name!r}" in message:
                message += f" Set {_PREFIX}{name}=null."
        raise ConfigError(message)


def read_settings(config: Any) -> DGPOSettings:
    """Return DGPO's settings of a run.

    Args:
        config: verl's whole configuration, a `DictConfig` or nested dicts.

    Returns:
        The settings, defaults where a key is not given.

    Raises:
        ConfigError: For a key that does not exist or a value that cannot work.

    Example:
        >>> settings = read_settings({"algorithm": {"dgpo": {"rule": "capped", "options": {"cap": 3.0}}}})
        >>> str(settings.rule)
        'capped(tau=0.5, kappa=1.0, cap=3.0)'
    """
    given = _plain(config["algorithm"].get("dgpo"))
    given = {} if given is None else given
    keys = ", ".join(_ATTRIBUTES)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"algorithm.dgpo must hold {keys}, got {given!r}. trainer.v1.trainer_mode switches DGPO on"
            f" ({', '.join(TRAINER_MODES)}) and off ({', '.join(TRAINER_MODES.values())})."
        )
    for key in given:
        if key not in _ATTRIBUTES:
            raise ConfigError(
                f"{_PREFIX}{key} is not a setting of DGPO.{did_you_mean(key, _ATTRIBUTES)} There are: {keys}."
            )
    options = given.get("options")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"{_PREFIX}options must hold options of the rule by name, got {options!r}.")
    values = {_ATTRIBUTES[key]: value for key, value in given.items()}
    values["credit_options"] = dict(options or {})
    return DGPOSettings(**values)


def _plain(section: Any) -> Any:
    """Return a section of a `DictConfig` as plain data, references resolved; anything else as it is."""
    if isinstance(section, dict) or not isinstance(section, Mapping):
        return section
    from omegaconf import OmegaConf

    return OmegaConf.to_container(section, resolve=True)


def prepare_config(config: Any) -> None:
    """Change verl's configuration so that it builds what DGPO needs; in place.

    - `trainer.v1.trainer_mode` becomes verl's own: verl branches on it in several places, and finds the mode's settings
      by it.
    - Where the rule reads the reference, one is built, which verl does only for a KL penalty: `use_kl_loss` is set, and
      `actor_rollout_ref.dgpo_kl_loss` tells the workers what it was, who put it back before they build the loss.

    Args:
        config: verl's whole configuration, a `DictConfig`.
    """
    from omegaconf import open_dict

    needs_reference = read_settings(config).rule.traits.needs_reference
    with open_dict(config):
        part = config.actor_rollout_ref
        mode = config.trainer.v1.trainer_mode
        config.trainer.v1.trainer_mode = TRAINER_MODES.get(mode, mode)
        part.dgpo_kl_loss = bool(part.actor.use_kl_loss)
        part.actor.use_kl_loss = part.dgpo_kl_loss or needs_reference
        # The reference is scored in the policy's micro-batches; verl wants sizes of its own for it all the same.
        for key in ("log_prob_micro_batch_size_per_gpu", "log_prob_max_token_len_per_gpu", "log_prob_use_dynamic_bsz"):
            if part.ref.get(key) is None:
                part.ref[key] = part.rollout.get(key)
