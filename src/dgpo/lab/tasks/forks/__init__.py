"""A verifiable task with planted pivotal tokens, and a model small enough to learn it in a minute or two."""

from dgpo.lab.tasks.forks.language import completion_roles, forks_reward, token_roles
from dgpo.lab.tasks.forks.model import warm_up_model
from dgpo.lab.tasks.forks.task import load_forks

__all__ = ["completion_roles", "forks_reward", "load_forks", "token_roles", "warm_up_model"]
