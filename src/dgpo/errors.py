"""Errors that speak to people: each names the offending value, the reason and the remedy."""


class DgpoError(Exception):
    """Anything this package refuses or gives up on; the command line prints its text without a traceback."""


class ConfigError(DgpoError, ValueError):
    """A configuration, an argument or a combination of them that cannot work."""


class RecipeError(ConfigError):
    """A recipe or an override of it on the command line that cannot work."""


class DataError(DgpoError, ValueError):
    """A data file, data set or column that is missing, empty or of the wrong kind."""


class RewardError(DgpoError, RuntimeError):
    """A reward function that raised, or returned something that is not one number per completion."""


class TrainingError(DgpoError, RuntimeError):
    """A run that had to stop: a loss that is not finite, a full disk, a checkpoint that does not fit."""


class UnsupportedVersionError(DgpoError, ImportError):
    """An engine of a version whose hooks have not been checked."""
