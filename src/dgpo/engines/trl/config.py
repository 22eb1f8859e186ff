"""`DGPOConfig`: TRL's `GRPOConfig` and the few settings that DGPO adds."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout
from trl import GRPOConfig
from trl.trainer import grpo_trainer

from dgpo.engines.trl.settings import SUPPORTED_LOSS_TYPES, DGPOSettings
from dgpo.errors import ConfigError
from dgpo.secrets import hide_secrets
from dgpo.versions import release_of


@dataclass
class DGPOConfig(DGPOSettings, GRPOConfig):
    """Arguments of `DGPOTrainer`: all of `GRPOConfig`, and those of `dgpo.config.CreditConfig`.

    `beta` keeps TRL's meaning and default (0: no KL penalty, as in the paper). A reference model is built where the
    rule reads it, whatever `beta` is; `credit_rule="even"` is GRPO and builds none.

    Attributes:
        skip_zero_advantage: Leave completions whose advantage is 0 out of the passes over policy and reference: those
            of groups with equal rewards, and those that `mask_truncated_completions` masks. Their gradient is 0. The
            metrics of credit and entropy are then over the others. What reads them (`beta`, an entropy bonus,
            `top_entropy_quantile`, a load-balancing loss, a rule that is signed, needs whole groups or is batch-wide)
            switches it off.
        sort_by_length: Cut each micro-batch to its own longest prompt and completion before it is scored, and sort the
            completions of an update by length before they are cut into micro-batches. The gradient is the same but for
            the order of additions; TRL's means over micro-batches (`entropy`, `clip_ratio/*`) weigh completions
            otherwise, and dropout draws other numbers. Pays where lengths differ much. Completions are not sorted where
            it matters which ones lie together: `loss_type="bnpo"`, an entropy bonus, `top_entropy_quantile`, a
            load-balancing loss, a rule that is signed, needs whole groups or is batch-wide. Models whose positions
            depend on the padding (learned ones) are left alone.
        padding_free: Run policy and reference on the tokens of a micro-batch as one row, without any padding. It needs
            flash attention (`attn_implementation`), which keeps the completions of a row apart, and a model with rotary
            positions and layers of attention alone. The gradient is the same but for the order of additions.
        overlap_reference: Run the reference on a whole rollout in a second thread while its rewards are computed, and
            hold its hidden states until the loss (the tokens of a process times the hidden size times 2 or 4 bytes).
            Pays where rewards leave the device idle: a judge behind an address, verifiers on other cores. Completions
            without advantage are run as well, as rewards are not known yet. The distances are the same but for the
            order of additions. Off, and said so, beside `credit_policy="old"`, `sync_ref_model`, FSDP, DeepSpeed, and
            dropout in a reference that shares the policy's weights.
        reference_cache_mib: With several iterations over a rollout (`num_iterations`) and `credit_policy="current"`,
            how much of the reference's hidden states is kept on each device from one iteration to the next, in MiB: the
            scored tokens of a process times the hidden size times 2 or 4 bytes. What fits is computed once a rollout,
            with the same result; 0 keeps nothing.
        credit_log_answer: The column of the data set with the gold answer, for the credit log; a dot leads into a
            mapping. None: the first of `answer`, `final_answer`, `ground_truth`, `solution` and
            `reward_model.ground_truth` that there is.
        hint: What the reference is shown, for a rule that reads it (`credit_rule="hindsight"`):
            `"gold"`, the column `answer` of the data set; another column by its name; or `"peer"`, another completion
            of the same prompt that is right. A completion without a hint is credited by the plain advantage. None:
            `"gold"` where the rule reads a hint.
        hint_template: How prompt and hint are put together, with `{prompt}` and `{hint}`, or `{hint}` alone where a
            column holds whole prompts; in a chat it makes the last message of the user. None:
            `dgpo.engines.hints.TEMPLATES`.
        hint_control: What the hinted reference is compared with: `"other"`, the prompt with another prompt's hint; a
            column of the data set with hints that are not right; or `"plain"`, the prompt without any, for a model that
            was taught to read hints. But for the last, what any hint changes (how long an answer is, whether it
            explains) cancels. None: `"other"` where the rule reads a hint.
        hint_max_length: Longest hint in tokens; of a longer one the middle is left out.
        hint_min_reward: Smallest reward of a completion that is shown as `"peer"`.

    Raises:
        ConfigError: For a value that cannot work, naming the value and the remedy.

    Example:
        >>> from dgpo import DGPOConfig
        >>> DGPOConfig(output_dir="runs/example", tau=0.1, use_cpu=True, report_to=[]).tau
        0.1
        >>> rule = {"credit_rule": "capped", "credit_options": {"cap": 3.0}}
        >>> DGPOConfig(output_dir="runs/example", **rule, use_cpu=True, report_to=[]).tau    # the rule's own default
        0.5
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "credit_options"]  # noqa: RUF012  transformers' own attribute

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, into each checkpoint's training_args.bin: everything but secrets."""
        return {name: hide_secrets({name: value})[name] for name, value in vars(self).items()}

    def __copy__(self) -> "DGPOConfig":
        """Return a copy with the secrets, which only files must not hold."""
        return self._with(dict(vars(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "DGPOConfig":
        """Return a copy with the secrets, which only files must not hold."""
        return self._with(copy.deepcopy(dict(vars(self)), memo))

    def _with(self, values: dict[str, Any]) -> "DGPOConfig":
        copied = object.__new__(type(self))
        copied.__dict__.update(values)
        return copied

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, as trackers get them, without secrets."""
        hidden: dict[str, Any] = hide_secrets(super().to_dict())
        return hidden

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is loaded."""
        self.check_settings()
        if self.loss_type not in SUPPORTED_LOSS_TYPES:
            raise ConfigError(
                f"loss_type={self.loss_type!r} weighs whole completions, and DGPO redistributes the credit inside of"
                f" them. Use one of {', '.join(SUPPORTED_LOSS_TYPES)}."
            )
        if self.importance_sampling_level != "token":
            raise ConfigError(
                f"importance_sampling_level={self.importance_sampling_level!r} gives all tokens of a completion one"
                " ratio; weights with mean 1 would cancel and leave plain sequence-level GRPO. Use 'token'."
            )
        super().__post_init__()
        if self.device.type == "cpu" and dist.is_available() and dist.is_initialized():
            # transformers hands `ddp_timeout` to the groups of accelerators alone.
            _set_pg_timeout(self.ddp_timeout_delta)


@contextmanager
def building_reference(args: DGPOConfig, model: Any, wanted: bool) -> Iterator[None]:
    """Give TRL's constructor a non-zero `beta`: everything that builds and prepares a reference hangs on it."""
    beta, load = args.beta, grpo_trainer.create_model_from_path
    args.beta = (beta or 1.0) if wanted else beta
    if not isinstance(model, str) and release_of(version("trl"), 2) < (1, 16):
        # TRL 1.15 loads the reference of a model that was passed as an object in float32, whatever that one is in.
        like_the_policy = {"dtype": model.dtype, "attn_implementation": model.config._attn_implementation}
        grpo_trainer.create_model_from_path = lambda path, **options: load(path, **{**like_the_policy, **options})
    try:
        yield
    finally:
        args.beta, grpo_trainer.create_model_from_path = beta, load
