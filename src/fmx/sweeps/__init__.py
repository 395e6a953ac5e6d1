"""Many runs: planned and checked before the first, each a process of its own, counted whatever becomes of them."""
