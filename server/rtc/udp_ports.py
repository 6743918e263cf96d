"""WebRTC's UDP ports within a fixed range, so that a firewall or a container can let them through.

aioice asks its event loop for a socket on any free port (port 0); a loop of this kind takes one of the range.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PORTS_PER_SESSION = 2  # one for each address of the machine: IPv4, and IPv6 where there is one


@dataclass(frozen=True, slots=True)
class PortRange:
    """UDP ports low..high, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        """Raise ``ValueError`` in one line for a range that cannot be."""
        if not 1024 <= self.low <= self.high <= 65535:
            raise ValueError(f"UDP ports are LOW-HIGH within 1024-65535, not {self}")

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.low}-{self.high}"

    def __len__(self) -> int:
        """How many ports there are."""
        return self.high - self.low + 1


def parse_ports(text: str) -> PortRange:
    """``50000-50100`` → the range; raises ``ValueError`` in one line."""
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text.strip())
    if found is None:
        raise ValueError(f"UDP ports are written LOW-HIGH, as in 50000-50100, not {text!r}")
    return PortRange(int(found[1]), int(found[2]))


class _Turns:
    """Ports in turn, so that one that was just closed is the last to be taken again."""

    def __init__(self, ports: PortRange) -> None:
        self._ports, self._next = ports, 0

    def __iter__(self) -> Iterator[int]:
        for _ in range(len(self._ports)):
            port = self._ports.low + self._next
            self._next = (self._next + 1) % len(self._ports)
            yield port


def loop_with_ports(
    base: type[asyncio.AbstractEventLoop], ports: PortRange
) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory of loops like ``base`` whose UDP sockets on "any port" come from ``ports``.

    Sockets that name a port, connect to somebody, or exist already are not touched. When all ports are taken,
    ``create_datagram_endpoint`` raises ``OSError`` (EADDRINUSE).
    """
    turns = _Turns(ports)

    class Loop(base):  # type: ignore[misc, valid-type]  # made for the base that is given
        async def create_datagram_endpoint(
            self, protocol_factory: Any, local_addr: Any = None, *others: Any, **named: Any
        ) -> Any:
            """As the base does, but for the port."""
            endpoint = super().create_datagram_endpoint
            if local_addr is None or local_addr[1] != 0:
                return await endpoint(protocol_factory, local_addr, *others, **named)
            for port in turns:
                try:
                    return await endpoint(protocol_factory, (local_addr[0], port), *others, **named)
                except OSError as error:
                    if errno.EADDRINUSE not in (error.errno, getattr(error.__cause__, "errno", None)):
                        raise  # uvloop keeps the system's own error as the cause
            raise OSError(errno.EADDRINUSE, f"all UDP ports of {ports} are taken")

    return Loop
