"""Files in which a trained model leaves fmx, and the proof that they say the same."""
