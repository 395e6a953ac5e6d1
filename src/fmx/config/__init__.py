"""Configurations as text and plain values: keys, rules, trust, and suggestions for mistyped names."""
