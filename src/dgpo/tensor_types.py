"""Shape annotations: jaxtyping's where it is installed (tests check them), inert otherwise.

The core depends on torch alone, so jaxtyping is a development dependency and its absence changes nothing.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _Shape:
            """Stands in for a jaxtyping annotation: `Float[Tensor, "B T"]` becomes `Any`."""

            def __class_getitem__(cls, _: Any) -> Any:
                return Any

        Bool = Float = Int = Shaped = _Shape

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor"]
