"""The networks, one file an architecture; importing this package imports none of them."""
