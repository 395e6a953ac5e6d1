"""The few colours and sizes that all figures share."""

__all__ = ["BLUE", "DPI", "GREY", "INK", "LARGE", "PALE", "SMALL", "TEXT", "VERMILION"]

INK = "#222222"
GREY = "#707070"
PALE = "#d0d0d0"
# Two colours of M. Okabe and K. Ito, Color Universal Design, 2008: the colour-blind can distinguish them.
BLUE = "#0072b2"
VERMILION = "#d55e00"

DPI = 110
LARGE, TEXT, SMALL = 10.5, 8.0, 6.5  # points
