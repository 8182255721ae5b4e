"""What a program and its network daemon take of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a program and all that it has started."""

    memory: int
    """Resident bytes."""
    descriptors: int
    threads: int
    processor: float
    """Seconds of processor time so far."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        """As it is now."""
        program = psutil.Process(pid)
        family = [program, *program.children(recursive=True)]

        def total(figure: Callable[[psutil.Process], int]) -> int:
            return sum(map(figure, family))

        return cls(
            memory=total(lambda process: process.memory_info().rss),
            descriptors=total(lambda process: process.num_fds()),
            threads=total(lambda process: process.num_threads()),
            processor=sum(sum(process.cpu_times()[:2]) for process in family),  # user, system
        )
