"""Entry point of group `verl.plugins`: imported at the end of `import verl`, in every process.

verl logs an exception here at DEBUG, where nobody sees it, and goes on. So nothing is raised: trainers are registered
that raise the reason as soon as a run asks for DGPO. A run that does not ask for it is left alone.
"""

import functools
import logging
from typing import Any

from dgpo.engines.verl.config import SEPARATE_ASYNC, TRAINER_MODES

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
                "trainer.v1.trainer_mode asks for DGPO, but dgpo's plugin for verl could not be loaded:"
                f" {type(cause).__name__}: {cause}"
            ) from cause

    for mode in (*TRAINER_MODES, SEPARATE_ASYNC):
        register_trainer(mode)(UnavailableDGPOTrainer)


def _check_at_start() -> None:
    """Let verl's validation of a configuration, which its command lines begin with, make DGPO's checks as well.

    A trainer sees its configuration only when Ray has started, and never where `trainer.use_v1` is False.
    """
    from verl.utils import config as verl_config

    from dgpo.engines.verl.checks import check_start

    validate = verl_config.validate_config

    @functools.wraps(validate)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> None:
        check_start(config)
        validate(config, *args, **kwargs)

    verl_config.validate_config = validate_config


def activate() -> None:
    """Register DGPO's trainers, or ones that raise the reason why there are none."""
    try:
        from dgpo.engines.verl.compat import check_verl_version

        check_verl_version()
        from dgpo.engines.verl import trainer  # noqa: F401  registers itself

        _check_at_start()
    except Exception as error:  # of any kind: verl would log it at DEBUG alone
        logger.error("dgpo's plugin for verl could not be loaded: %s: %s", type(error).__name__, error)
        _register_refusal(error)


activate()
