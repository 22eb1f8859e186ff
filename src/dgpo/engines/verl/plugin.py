"""Entry point of group `verl.plugins`: imported at the end of `import verl`, in every process.

verl logs an exception here at DEBUG, where nobody sees it, and goes on. So nothing is raised: a trainer is registered
that raises the reason as soon as a run asks for DGPO. A run that does not ask for it is left alone.
"""

import logging
from typing import Any

from dgpo.engines.verl.config import TRAINER_MODE

logger = logging.getLogger(__name__)


def _register_refusal(cause: Exception) -> None:
    """Register a trainer that raises the reason why DGPO cannot run."""
    from verl.trainer.ppo.v1.trainer_base import register_trainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    from dgpo.errors import TrainingError

    class UnavailableDGPOTrainer(PPOTrainerSync):
        """Stands in for a trainer that could not be loaded."""

        def __init__(self, config: Any) -> None:
            raise TrainingError(
                f"trainer.v1.trainer_mode={TRAINER_MODE} asks for DGPO, but dgpo's plugin for verl could not be loaded:"
                f" {type(cause).__name__}: {cause}"
            ) from cause

    register_trainer(TRAINER_MODE)(UnavailableDGPOTrainer)


def activate() -> None:
    """Register DGPO's trainer, or one that raises the reason why there is none."""
    try:
        from dgpo.engines.verl.compat import check_verl_version

        check_verl_version()
        from dgpo.engines.verl import trainer  # noqa: F401  registers itself
    except Exception as error:  # of any kind: verl would log it at DEBUG alone
        logger.error("dgpo's plugin for verl could not be loaded: %s: %s", type(error).__name__, error)
        _register_refusal(error)


activate()
