"""`python -m fmx VERB …`: what the console script `fmx` does."""

from fmx.cli import main

if __name__ == "__main__":
    main()
