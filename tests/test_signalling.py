"""What an offer may say; every problem has its code and one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mytalk.errors import BadInput
from server.signalling import check_sdp, read_json, read_offer
from tests.test_peer import an_offer


async def body(**fields: Any) -> bytes:
    return json.dumps({"sdp": await an_offer(), "type": "offer", **fields}).encode()


async def test_a_good_offer() -> None:
    offer = read_offer(await body(actor="ada", hop=2, lookahead=1, steps=4))
    assert (offer.actor, offer.hop, offer.lookahead, offer.steps) == ("ada", 2, 1, 4)
    assert offer.sdp.startswith("v=0\r\n")
    offer = read_offer(await body(actor=""))
    assert (offer.actor, offer.hop, offer.lookahead, offer.steps) == (None, None, None, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "bad_json"),
        (b"[1]", "bad_json"),
        (b"null", "bad_json"),
        (b"\xff", "bad_json"),
        (b"{}", "bad_offer"),
    ],
)
def test_bodies_that_are_no_offer(text: bytes, code: str) -> None:
    with pytest.raises(BadInput) as error:
        read_offer(text)
    assert error.value.code == code
    assert "\n" not in str(error.value)


def test_deep_json_is_an_error_and_no_crash() -> None:
    with pytest.raises(BadInput):
        read_json(b"[" * 100_000)


@pytest.mark.parametrize(
    "fields",
    [
        {"hop": True},
        {"hop": 1.5},
        {"lookahead": "1"},
        {"steps": True},
        {"actor": 3},
        {"type": "answer"},
        {"sdp": 1},
        {"more": 1},
    ],
)
async def test_fields_of_the_wrong_kind(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as error:
        read_offer(await body(**fields))
    assert error.value.code == "bad_offer"


async def test_candidates_that_only_mdns_resolves_are_dropped() -> None:
    sdp = await an_offer()
    at = sdp.index("a=candidate:")
    hidden = "a=candidate:1 1 udp 2122 7c9d-42.local 5000 typ host\r\n"
    offer = read_offer(await body(sdp=sdp[:at] + hidden + sdp[at:]))
    assert ".local" not in offer.sdp
    assert offer.sdp.count("a=candidate:") == sdp.count("a=candidate:")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("m=video", "m=audio", "one audio section, not 2"),
        ("a=recvonly", "a=sendonly", "does not receive audio"),
        ("a=ice-ufrag:", "a=ice-nothing:", "no ICE user name"),
        ("a=fingerprint:", "a=finger:", "no DTLS fingerprint"),
        ("a=mid:0", "a=mid:1", "do not fit together"),
        ("BUNDLE 0", "BUNDLE 9", "do not fit together"),
    ],
)
async def test_what_is_missing_in_an_sdp_is_named(old: str, new: str, said: str) -> None:
    sdp = await an_offer()
    assert old in sdp
    check_sdp(sdp)
    with pytest.raises(BadInput, match=said) as error:
        check_sdp(sdp.replace(old, new))
    assert error.value.code == "bad_sdp"
