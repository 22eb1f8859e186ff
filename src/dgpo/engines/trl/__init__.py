"""DGPO for TRL: `DGPOConfig` and `DGPOTrainer`, drop-ins for `GRPOConfig` and `GRPOTrainer`; and `watch`.

TRL is loaded, and its version checked, when one of them is first used: what `dgpo.engines.trl.settings` holds is known
without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgpo.engines.trl.config import DGPOConfig
    from dgpo.engines.trl.trainer import DGPOTrainer
    from dgpo.engines.trl.watching import watch

__all__ = ["DGPOConfig", "DGPOTrainer", "watch"]

_HOME = {"DGPOConfig": "config", "DGPOTrainer": "trainer", "watch": "watching"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; an unsupported TRL must fail by its version, not by a name."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dgpo.engines.trl.compat import check_trl_version

    check_trl_version()
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
