"""WebRTC's sockets stay within the range, and a full range is an error, not a port outside it."""

from __future__ import annotations

import asyncio
import errno

import aioice
import pytest
import uvloop

from server.config import ConfigError, from_mapping, parse
from server.rtc import setup as rtc_setup
from server.rtc.udp_ports import PortRange, loop_with_ports, parse_ports

BASES = [asyncio.SelectorEventLoop, uvloop.Loop]


def run(base, ports, main):
    with asyncio.Runner(loop_factory=loop_with_ports(base, ports)) as runner:
        return runner.run(main())


def free_range(count: int) -> PortRange:
    """Ports that nobody uses now, below those that systems give out by themselves."""
    import socket

    for low in range(20_000, 30_000, 97):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for place, one in enumerate(sockets):
                one.bind(("127.0.0.1", low + place))
            return PortRange(low, low + count - 1)
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports here")


async def endpoint(address=("127.0.0.1", 0), **named):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=address, **named)
    return transport, transport.get_extra_info("sockname")[1]


@pytest.mark.parametrize("base", BASES)
def test_ports_come_from_the_range_and_a_full_range_is_an_error(base):
    ports = free_range(3)

    async def main():
        made = [await endpoint() for _ in range(3)]
        assert sorted(port for _, port in made) == [ports.low, ports.low + 1, ports.high]
        with pytest.raises(OSError, match=f"all UDP ports of {ports} are taken") as raised:
            await endpoint()
        assert raised.value.errno == errno.EADDRINUSE
        made[1][0].close()
        await asyncio.sleep(0.05)
        again, port = await endpoint()
        assert port == made[1][1]
        for transport, _ in (*made, (again, port)):
            transport.close()

    run(base, ports, main)


@pytest.mark.parametrize("base", BASES)
def test_other_sockets_are_left_alone(base):
    ports = free_range(1)
    other = free_range(1).low + 1

    async def main():
        named, port = await endpoint(("127.0.0.1", other))
        assert port == other
        with pytest.raises(OSError, match=r"192|assign") as raised:
            await endpoint(("192.0.2.1", 0))  # an address that this machine has not: no port would help
        assert raised.value.errno != errno.EADDRINUSE
        named.close()

    run(base, ports, main)


@pytest.mark.parametrize("base", BASES)
def test_two_peers_find_each_other_within_the_range(base, monkeypatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", rtc_setup._addresses_with_loopback)
    ports = free_range(16)

    async def main():
        one, two = aioice.Connection(ice_controlling=True), aioice.Connection(ice_controlling=False)
        await one.gather_candidates()
        await two.gather_candidates()
        offered = [candidate.port for peer in (one, two) for candidate in peer.local_candidates]
        assert offered
        assert all(ports.low <= port <= ports.high for port in offered)
        for here, there in ((one, two), (two, one)):
            for candidate in there.local_candidates:
                await here.add_remote_candidate(candidate)
            await here.add_remote_candidate(None)
            here.remote_username, here.remote_password = there.local_username, there.local_password
        await asyncio.gather(one.connect(), two.connect())
        await one.send(b"hello")
        assert await two.recv() == b"hello"
        await asyncio.gather(one.close(), two.close())

    run(base, ports, main)


def test_the_range_is_read_and_checked():
    assert parse_ports("50000-50100") == PortRange(50000, 50100)
    assert (str(PortRange(50000, 50100)), len(PortRange(50000, 50100))) == ("50000-50100", 101)
    for wrong in ("50000", "a-b", "50100-50000", "80-90", "60000-70000", ""):
        with pytest.raises(ValueError, match="UDP ports are"):
            parse_ports(wrong)


def test_the_server_takes_it_by_flag_and_file():
    assert parse(["--udp-ports", "50000-50100"], {}).udp_ports == PortRange(50000, 50100)
    assert from_mapping({"udp_ports": "50000-50100"}).udp_ports == PortRange(50000, 50100)
    assert parse([], {}).udp_ports is None
    with pytest.raises(ConfigError, match="udp_ports: UDP ports are written LOW-HIGH"):
        parse(["--udp-ports", "many"], {})
    with pytest.raises(ConfigError, match="udp_ports must be a string"):
        from_mapping({"udp_ports": 50000})
    with pytest.raises(ConfigError, match="50000-50003 are 4 ports, and 4 sessions need 8"):
        parse(["--udp-ports", "50000-50003"], {})
