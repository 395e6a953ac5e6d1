"""Run directories: naming, writing, reading, trusting and resuming them."""
