"""mytalk: real-time streaming lip sync (library)."""

__version__ = "0.1.0"
