"""Export formats of a trained model, and the check that an exported file gives the same results."""
