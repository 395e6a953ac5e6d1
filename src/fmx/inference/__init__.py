"""A trained network at work: restored, scored, run on pictures, exported."""
