"""The checker behind the shape annotations: an int is accepted where a float is asked for, as Python itself does."""

from importlib.util import find_spec
from pathlib import Path

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Check the annotations of `checked_modules` where they are imported from now on."""
    jaxtyping.install_import_hook(checked_modules(), "shape_checks.check")


def checked_modules() -> list[str]:
    """The modules whose annotations are checked, shapes included, in every test that reaches them.

    Not the Triton kernels: the hook would wrap the functions under @triton.jit, whose source Triton compiles by itself,
    with the names of the module that the wrapper comes from.
    """
    folder = Path(find_spec("dgpo").origin).parent / "lm_head"
    plain = (path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "tiles_triton"))
    return ["dgpo.core", *(f"dgpo.lm_head.{name}" for name in sorted(plain))]
