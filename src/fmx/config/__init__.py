"""A configuration as text and plain values: keys, names, rules, what may be trusted, and what a mistake meant."""
