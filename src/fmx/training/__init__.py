"""From a composed configuration to a trained network: the only package that instantiates."""
