"""DGPO inside verl: a trainer mode of its Ray trainers, loaded by verl itself (entry point group `verl.plugins`).

verl is imported first, whichever of these modules is asked for: it imports `plugin` on its way, and that the others.
Were one of them the first, the plugin would meet it half loaded and take DGPO for broken.
"""

from importlib.util import find_spec

if find_spec("verl") is not None:
    import verl  # noqa: F401
