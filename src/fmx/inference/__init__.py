"""A trained network in use: restored, evaluated, run on pictures, exported."""
