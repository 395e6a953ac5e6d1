"""Tables and pages over many runs, from their files alone."""
