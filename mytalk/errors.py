"""The errors that a caller of mytalk can meet; each carries a stable machine-readable ``code``."""


class MyTalkError(Exception):
    """Base of all errors raised on purpose; ``str(error)`` is one line for a person."""

    code = "error"


class BadInput(MyTalkError):
    """What came in cannot be used (malformed, wrong format, out of bounds); nothing was changed."""

    code = "bad_input"

    def __init__(self, message: str, code: str = "bad_input") -> None:
        super().__init__(message)
        self.code = code


class EngineFailed(MyTalkError):
    """An inference engine could not be loaded or a call to it failed."""

    code = "engine_failed"


class SessionClosed(MyTalkError):
    """A call on a session that has been closed."""

    code = "session_closed"


class Overloaded(MyTalkError):
    """A bounded queue or the session limit is full: try again, after ``retry_after_s`` if known."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
