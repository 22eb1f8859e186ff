"""Prompts with verifiable answers: forks (embedded), reasoning-gym's, local files and data sets of the hub."""

from dgpo.lab.tasks.base import Task
from dgpo.lab.tasks.registry import load_task

__all__ = ["Task", "load_task"]
