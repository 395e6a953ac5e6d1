"""The pictures of a run: functions of plain values that return a matplotlib Figure, never pyplot's."""
