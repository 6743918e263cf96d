"""One session's talking, sans I/O: what to compute next and when each slice is due."""

from mytalk.session.talk import TalkSession

__all__ = ["TalkSession"]
