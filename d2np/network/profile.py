"""Where the time goes: per layer and phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """One step of the work.

    Attributes
    ----------
    name : str
        A layer, or a step behind the network.
    phase : str
    seconds : float
        Added up over the threads.
    """

    name: str
    phase: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Time per layer and phase; printed as a table.

    Attributes
    ----------
    rows : tuple of Row
        In the order of the image's way through the network.
    wall_seconds : float
        From the decoded image to the features.
    threads : int
    """

    rows: tuple[Row, ...]
    wall_seconds: float
    threads: int

    @property
    def total_seconds(self) -> float:
        """Seconds of all rows, added up over the threads."""
        return sum(row.seconds for row in self.rows)

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase, over all layers."""
        sums: dict[str, float] = {}
        for row in self.rows:
            sums[row.phase] = sums.get(row.phase, 0.0) + row.seconds
        return sums

    def __str__(self) -> str:
        head = f"{'layer':<14}{'phase':<24}{'ms':>9}{'share':>8}"
        lines = [head]
        for rows in (self.rows, [Row("all", *phase) for phase in self.phases().items()]):
            lines.append("-" * len(head))
            for name, phase, seconds in rows:
                share = seconds / self.total_seconds
                lines.append(f"{name:<14}{phase:<24}{seconds * 1e3:>9.1f}{share:>8.1%}")
        busy = self.total_seconds / self.threads / self.wall_seconds
        plural = "s" * (self.threads > 1)
        lines += [
            "-" * len(head),
            f"{self.wall_seconds * 1e3:.0f} ms on {self.threads} thread{plural}, each busy {busy:.0%} of it",
        ]
        return "\n".join(lines)
