"""Print tables: with Rich on a terminal, as aligned plain text elsewhere."""

from collections.abc import Collection, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["fits", "print_lines", "print_table", "printable"]

UNBOUNDED = 10_000  # columns: no wrapping in a file or a pipe


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, num_left: int = 1, left: Collection[int] = ()
) -> None:
    """Print a table on stdout; the first columns and those in `left` are left-aligned, all others right-aligned."""
    console = Console(highlight=False)
    on_terminal = console.is_terminal
    table = _table(columns, rows, {*range(num_left), *left}, on_terminal=on_terminal)
    if on_terminal:
        console.print(table)
        return
    console = Console(highlight=False, width=UNBOUNDED)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, wrapped between words on a terminal and unwrapped elsewhere."""
    console = Console(highlight=False)
    for line in map(printable, lines):
        console.print(Text(line)) if console.is_terminal else print(line)


def fits(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """Whether a table fits on the terminal without wrapped cells; True where there is no terminal."""
    console = Console()
    table = _table(columns, rows, (), on_terminal=True)
    return not console.is_terminal or Measurement.get(
        console, console.options.update(width=UNBOUNDED), table
    ).maximum <= (console.width)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int], *, on_terminal: bool) -> Table:
    table = Table(box=SIMPLE_HEAD if on_terminal else None, pad_edge=False)
    for position, column in enumerate(columns):
        justify = "left" if position in left else "right"
        # Left-aligned text may wrap, numbers may not.
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=justify == "right")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: a file called [red] is not markup
    return table


def print_metrics(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table on stdout, one line per row: right-aligned numbers, then one text column.

    The terminal wraps only the text.
    """
    lines = [columns, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)][:-1]
    for line in lines:
        cells = [" " * (width - cell_len(cell)) + cell for width, cell in zip(widths, line, strict=False)]
        print("  ".join([*cells, line[-1]]))


def printable(text: object) -> str:
    """Text with non-printable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
