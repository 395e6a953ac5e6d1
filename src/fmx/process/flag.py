"""Options of a command that its later steps ask for: Hydra passes none on."""

__all__ = ["Flag"]


class Flag:
    """An option without a value. word: as it is typed."""

    def __init__(self, word: str) -> None:
        self.word = word
        self._asked = False

    def ask(self, asked: bool) -> None:
        """Set whether the current command has it; one process, such as a notebook, may run several commands."""
        self._asked = asked

    def is_asked(self) -> bool:
        """Whether the current command has it."""
        return self._asked
