"""Settings of uploaded actors, the ``[uploads]`` table."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mytalk.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class UploadConfig:
    """What may be uploaded, where it goes and what making an actor of it may cost.

    enabled: whether actors can be uploaded and deleted at all. folder: where they are kept.
    max_mb: largest upload. max_actors: most uploaded actors at a time. waiting: uploads that may wait while
        one is made; the next one gets 503.
    max_video_s: how much of a video is used, from its start.
    deadline_s, memory_mb: what making one actor may take, in a process of its own.
    free_mb: left free on the disk.
    """

    enabled: bool = True
    folder: Path = ROOT / "my-actors"
    max_mb: int = 200
    max_actors: int = 50
    waiting: int = 2
    max_video_s: int = 60
    deadline_s: int = 600
    memory_mb: int = 3000
    free_mb: int = 500

    def __post_init__(self) -> None:
        """Refuse what is out of range; raises ``BadInput``."""
        if not isinstance(self.enabled, bool):
            raise BadInput(f"enabled must be true or false, not {self.enabled!r}", "bad_config")
        for name in ("max_mb", "max_actors", "waiting", "max_video_s", "deadline_s", "memory_mb", "free_mb"):
            value, low = getattr(self, name), 0 if name in ("waiting", "free_mb") else 1
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST:
                raise BadInput(f"{name} must be a whole number in {low}..{MOST}, not {value!r}", "bad_config")

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> UploadConfig:
        """Settings from a parsed TOML table; raises ``BadInput``."""
        known = sorted(field.name for field in fields(cls))
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise BadInput(
                f"unknown uploads setting {unknown[0]!r}; known are {', '.join(known)}", "bad_config"
            )
        folder = values.get("folder", cls().folder)
        if not isinstance(folder, str | Path) or not str(folder):
            raise BadInput(f"folder must be a path, not {folder!r}", "bad_config")
        return cls(**{**values, "folder": Path(folder)})
