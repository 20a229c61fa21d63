"""What processes hold: memory, open descriptors, threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from balance_hil.documents import ResourcesDocument


@dataclass(frozen=True)
class Resources:
    """Of one or several processes together."""

    memory_bytes: int  # resident
    descriptors: int
    threads: int

    def since(self, before: Resources) -> Resources:
        """The growth since ``before``."""
        return Resources(
            self.memory_bytes - before.memory_bytes, self.descriptors - before.descriptors, self.threads - before.threads
        )

    def to_document(self) -> ResourcesDocument:
        """Plain JSON types."""
        return {"memory_bytes": self.memory_bytes, "descriptors": self.descriptors, "threads": self.threads}


def resources_of(processes: Sequence[int]) -> Resources | None:
    """Of processes by id; None without any, where one has ended or is another user's, and where this is not Linux."""
    if not processes:
        return None
    memory = descriptors = threads = 0
    try:
        for process in processes:
            folder = Path(f"/proc/{process}")
            memory += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            descriptors += sum(1 for _ in (folder / "fd").iterdir())
            threads += sum(1 for _ in (folder / "task").iterdir())
    except OSError:
        return None
    return Resources(memory, descriptors, threads)
