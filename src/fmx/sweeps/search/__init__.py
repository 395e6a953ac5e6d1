"""The search of `hydra/sweeper=search`: distributions, trials, pruning, results."""
