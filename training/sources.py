"""Which clip comes next: how often each source of a prepared folder is drawn, a user's own included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from mytalk.errors import BadInput


class Sourced(Protocol):
    """Anything with a source: the first folder level of the videos it was prepared from."""

    @property
    def source(self) -> str:
        """Its name."""


T = TypeVar("T", bound=Sourced)


class SourceDraw(Generic[T]):
    """Draws clips: first the source by its weight, then any clip of it.

    weights: by source (TOML table ``[data.sources]``); without any, every clip is drawn alike, so that a
    source counts by how much it holds. With some, a source that is not named has the weight ``other``, and
    one that is named but not there counts for nothing. Raises ``BadInput`` where nothing is left to draw.
    """

    def __init__(self, clips: Sequence[T], weights: Mapping[str, float], other: float = 1.0) -> None:
        by_source: dict[str, list[T]] = defaultdict(list)
        for clip in clips:
            by_source[clip.source].append(clip)
        if any(weight < 0 for weight in (*weights.values(), other)):
            raise BadInput("data.sources and data.other_sources must not be negative")
        found = {s: weights.get(s, other) if weights else float(len(c)) for s, c in sorted(by_source.items())}
        total = sum(found.values())
        if not total > 0:
            raise BadInput(
                f"no clip is ever drawn: the sources are {', '.join(found) or 'none'}, and their weights 0"
            )
        self.shares = {source: weight / total for source, weight in found.items()}
        self._clips = [by_source[source] for source in self.shares]
        self._edges = np.cumsum(list(self.shares.values()))

    def pick(self, random: np.random.Generator) -> T:
        """One clip."""
        place = int(np.searchsorted(self._edges, random.random() * self._edges[-1], side="right"))
        pool = self._clips[min(place, len(self._clips) - 1)]
        return pool[random.integers(len(pool))]

    def told(self) -> str:
        """The shares in words, largest first."""
        ordered = sorted(self.shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{source} {100 * share:.0f} %" for source, share in ordered)
