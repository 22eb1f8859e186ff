"""A verifiable task with planted pivotal tokens, and a model small enough to learn it in a minute or two."""

from typing import TYPE_CHECKING

from dgpo.lab.tasks.forks.language import completion_roles, forks_reward, token_roles
from dgpo.lab.tasks.forks.task import load_forks
from dgpo.names import lazy_names

if TYPE_CHECKING:
    from dgpo.lab.tasks.forks.model import warm_up_model

# The task alone needs no torch.
__getattr__ = lazy_names(__name__, {"dgpo.lab.tasks.forks.model": ("warm_up_model",)})

__all__ = ["completion_roles", "forks_reward", "load_forks", "token_roles", "warm_up_model"]
