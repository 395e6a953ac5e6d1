"""The version of fmx; the package's metadata reads it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
