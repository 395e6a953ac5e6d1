"""The version of fmx, which the package's metadata is made from."""

__all__ = ["__version__"]

__version__ = "0.1.0"
