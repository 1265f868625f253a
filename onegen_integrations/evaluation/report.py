"""What an evaluation measured, as rows, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_HEADINGS = ("part", "metric", "value", "target", "reached", "n")


@dataclass(frozen=True)
class Row:
    """One measured value. name: the part it belongs to; n: over how many items; target: what it should reach."""

    name: str
    metric: str
    value: float
    target: float | None = None
    n: int = 1

    @property
    def reached(self) -> bool | None:
        """Whether the value reaches its target; None where there is no target."""
        return None if self.target is None else self.value >= self.target


def mean_rows(
    scores: Mapping[tuple[str, str], Sequence[float]], targets: Mapping[tuple[str, str], float] | None = None
) -> list[Row]:
    """The mean of the scores under each (name, metric), with its target where there is one."""
    targets = targets or {}
    return [Row(*key, sum(values) / len(values), targets.get(key), len(values)) for key, values in scores.items()]


def as_table(rows: Sequence[Row]) -> str:
    """The rows as a table in plain text, without a line break at its end."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def as_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON list of objects with the fields of `Row` and `reached`."""
    return json.dumps([asdict(row) | {"reached": row.reached} for row in rows], indent=2, ensure_ascii=False)


def _cells(row: Row) -> tuple[str, ...]:
    target = "" if row.target is None else f"{row.target:.2f}"
    reached = {None: "", True: "yes", False: "no"}[row.reached]
    return row.name, row.metric, _number(row.value), target, reached, str(row.n)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    aligned = (c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
    return "  ".join(aligned).rstrip()
