"""fmx: config-driven image-classification experiments on Fashion-MNIST and its relatives."""

__version__ = "0.1.0"
