"""The figures of a run: functions of plain values that return a matplotlib Figure, without pyplot."""
