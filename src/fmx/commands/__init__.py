"""What a person types: one file for each verb, and a run's command line."""
