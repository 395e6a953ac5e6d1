"""From a composed configuration to a trained network: the only room that instantiates."""
