"""The colours of every figure."""

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
# Okabe and Ito's colours can be told apart with any kind of colour vision.
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000", "#999999")
"""In the order in which the series of a figure take them."""
