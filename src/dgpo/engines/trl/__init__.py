"""DGPO for TRL: `DGPOConfig` and `DGPOTrainer`, drop-ins for `GRPOConfig` and `GRPOTrainer`; and `watch`."""

from dgpo.engines.trl.compat import check_trl_version

check_trl_version()

from dgpo.engines.trl.config import DGPOConfig  # noqa: E402  an unsupported TRL must fail by its version, not by a name
from dgpo.engines.trl.trainer import DGPOTrainer  # noqa: E402
from dgpo.engines.trl.watching import watch  # noqa: E402

__all__ = ["DGPOConfig", "DGPOTrainer", "watch"]
