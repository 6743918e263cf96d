"""What can go wrong in a call, each with the exit status of the command."""


class ClientError(Exception):
    """Base; ``str(error)`` is one line for a person."""

    exit_status = 1


class BadArgument(ClientError):
    """A file or an option cannot be used."""

    exit_status = 2


class Refused(ClientError):
    """The server cannot be reached or said no; ``code`` is the server's own word for it."""

    exit_status = 3

    def __init__(self, message: str, code: str = "unreachable") -> None:
        super().__init__(message)
        self.code = code


class ConnectionLost(ClientError):
    """The call was up and the server went away, or its media stopped."""

    exit_status = 4


class NothingReceived(ClientError):
    """The call was answered but no picture arrived, or the test card showed no flash."""

    exit_status = 5
