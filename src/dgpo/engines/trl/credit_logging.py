"""Takes completions with their tokens' credit out of the steps of a `DGPOTrainer` for its credit log."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dgpo.core import Credit
from dgpo.credit_log import CreditLog, CreditSettings
from dgpo.credit_log.collect import PER_TOKEN, rows_of_whole_groups
from dgpo.engines.trl.hindsight import COLUMNS
from dgpo.engines.trl.likeliest import LikeliestObserver
from dgpo.engines.trl.logged_settings import logged_settings
from dgpo.engines.trl.rollout import GROUP, log_columns
from dgpo.engines.trl.step_log import SAMPLING_LOG_RATIO, PickedRows, StepLog, given_columns
from dgpo.rules import CreditRule

_CANDIDATES = 4  # times the completions that are logged: looked at where the advantages are not known yet


class CreditLogging(StepLog):
    """Logs what a `DGPOTrainer` gave.

    Args:
        trainer: The trainer; its state says which step is made.
        rule: Its rule.
    """

    def __init__(self, trainer: Any, rule: CreditRule) -> None:
        args = trainer.args
        settings = CreditSettings(
            **rule.describe(),
            vocab_size=trainer.model.config.get_text_config().vocab_size,
            engine="trl",
            credit_policy=args.credit_policy,
            temperature=args.temperature,
            trainer=logged_settings(args, trainer.model),
        )
        sizes = {"every": args.credit_log_steps, "max_completions": args.credit_log_completions}
        super().__init__(trainer, CreditLog(args.output_dir, settings, **sizes))
        self._kappa = float(rule.options.get("kappa", 1.0))
        self._observer: LikeliestObserver | None = None
        self._rows: list[int] | None = []  # of the batch that is being scored; None: not known before its rewards

    @classmethod
    def of(cls, trainer: Any, rule: CreditRule) -> "CreditLogging | None":
        """Return the logging of a trainer, added to its callbacks; `None` where it is off or another process logs."""
        if not trainer.args.credit_log_steps or not trainer.accelerator.is_main_process:
            return None
        made = cls(trainer, rule)
        trainer.add_callback(made)
        return made

    def add_columns(self, rows: list[dict[str, Any]], outputs: dict[str, Any]) -> None:
        """Add rewards and gold answers of the completions that were just sampled to the inputs of the loss.

        Args:
            rows: The data set's row of each completion.
            outputs: The rollout.
        """
        columns = log_columns(self._trainer, rows, self._trainer.args.credit_log_answer)
        outputs.update({name: values.to(outputs["completion_ids"].device) for name, values in columns.items()})

    def observe(self, scored: Tensor, inputs: Mapping[str, Any] | None) -> LikeliestObserver | None:
        """Choose completions of a batch that is about to be scored.

        Args:
            scored: (B, T), non-zero where a token of a completion is scored.
            inputs: TRL's inputs of the loss; None of a rollout whose rewards are not known yet.

        Returns:
            What looks at the pass over both heads; `None` unless this is a training step that is due and has room left.
        """
        self._observer, self._rows = None, []
        if inputs is not None:
            self._rows = observed = self.rows_of(inputs)
        elif self.is_due():
            self._rows, self._seen = None, self._seen + len(scored)
            size = self._trainer.num_generations
            observed = list(range(min(len(scored), max(1, _CANDIDATES * self.log.max_completions // size) * size)))
        else:
            observed = []
        if observed:
            self._observer = LikeliestObserver(scored.bool(), observed, self._kappa)
        return self._observer

    def take(self, inputs: dict[str, Any], credit: Credit, per_token: Mapping[str, Tensor], trained: Tensor) -> None:
        """Keep what the chosen completions were given; all of it stays on the device.

        Args:
            inputs: TRL's inputs of the loss.
            credit: What the rule gave.
            per_token: (B, T) statistics by name.
            trained: (B, T) bool, True where a token has a weight.
        """
        observer, self._observer = self._observer, None
        if observer is None:
            return
        rows = self._rows
        if rows is None:
            groups, advantages = inputs[GROUP].tolist(), inputs["advantages"].tolist()
            rows = rows_of_whole_groups(groups, advantages, self.log.max_completions)
        columns = {name: values for name, values in per_token.items() if name in PER_TOKEN}
        sampling_logps = inputs.get("sampling_per_token_logps", inputs.get("old_per_token_logps"))
        if sampling_logps is not None:
            columns[SAMPLING_LOG_RATIO] = per_token["logps"] - sampling_logps
        columns |= {name: inputs[key] for name, key in COLUMNS.items() if key in inputs}
        columns |= given_columns(credit)
        self.keep(PickedRows.of(rows, inputs, trained, columns, observer.found))
