"""Tables for people: lines and colours on a terminal, aligned plain text elsewhere."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_table", "printable"]

UNBOUNDED = 10_000  # columns: text for a file or a pipe is not folded


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, num_left: int = 1) -> None:
    """Print a table on stdout; the first columns start on the left, the others, figures, end on the right."""
    console = Console(highlight=False)
    on_terminal = console.is_terminal
    table = Table(box=SIMPLE_HEAD if on_terminal else None, pad_edge=False)
    for position, column in enumerate(columns):
        justify = "left" if position < num_left else "right"
        table.add_column(Text(column), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: a file called [red] is no markup
    if on_terminal:
        console.print(table)
        return
    console = Console(highlight=False, width=UNBOUNDED)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def printable(text: object) -> str:
    """Text without what would steer a terminal or cannot be encoded: escapes stand for such characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
