"""The search of `hydra/sweeper=search`: distributions, trials, pruning, and what came out."""
