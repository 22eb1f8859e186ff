"""Errors that speak to people: each names the offending value, the reason and the remedy."""

import re

# A reason that ends its own sentence, inside of one of ours. Paths (`runs/..`) and dots of omission stay.
_TWO_STOPS = re.compile(r"(?<=[\w'\")\]`])\.\.(?=\s|$)")


class DgpoError(Exception):
    """Anything this package refuses or gives up on; the command line prints its text without a traceback.

    Example:
        >>> str(DgpoError("It failed: the file is gone.. Try again with ../file."))
        'It failed: the file is gone. Try again with ../file.'
    """

    def __str__(self) -> str:
        return _TWO_STOPS.sub(".", super().__str__())


class ConfigError(DgpoError, ValueError):
    """A configuration value, model or credit rule that cannot work."""


class RecipeError(ConfigError):
    """A recipe or a command-line override that cannot work."""


class DataError(DgpoError, ValueError):
    """A data file, data set or column that is missing, empty or of the wrong kind."""


class RewardError(DgpoError, RuntimeError):
    """A reward function that raised, or returned something that is not one number per completion."""


class TrainingError(DgpoError, RuntimeError):
    """A run that had to stop: a loss that is not finite, a full disk, a checkpoint that does not fit."""


class UnsupportedVersionError(DgpoError, ImportError):
    """An engine of a version whose hooks have not been checked."""
