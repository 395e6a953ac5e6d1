"""Sweeps: jobs are planned and checked before the first starts, run in processes of their own, and recorded."""
