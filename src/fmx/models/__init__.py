"""The networks, one file per architecture; importing this package imports none of them."""
