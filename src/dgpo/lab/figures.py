"""Pictures by matplotlib without pyplot, which keeps global state and may look for a display."""

from typing import Any

BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, "#000000", "#999999")
"""Okabe and Ito's colours, for any kind of colour vision, in the order in which series take them."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        A `Figure` that `savefig` writes.

    Example:
        >>> new_figure(7, 4).subplots().get_title()
        ''
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
