"""What an offer may say: JSON body → ``Offer``, with every problem named before anything is built."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiortc import sdp

from mytalk.errors import BadInput

FIELDS = ("sdp", "type", "actor", "hop", "lookahead", "steps")


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer.

    sdp: without candidates that only multicast DNS could resolve. actor: None = the server's default.
    hop, lookahead: frames; steps: diffusion steps, 0 = the weights' default; None = the server's settings.
    """

    sdp: str
    actor: str | None
    hop: int | None
    lookahead: int | None
    steps: int | None = None


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object from a request body; raises ``BadInput`` (``bad_json``)."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", "bad_json") from error
    if not isinstance(value, dict):
        raise BadInput("the body is not a JSON object", "bad_json")
    return value


def read_offer(body: bytes) -> Offer:
    """Check the body of ``POST /offer``; raises ``BadInput`` with code bad_json, bad_offer or bad_sdp."""
    fields = read_json(body)
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise BadInput(f"unknown field {unknown[0]!r} in the offer; known: {', '.join(FIELDS)}", "bad_offer")
    if fields.get("type") != "offer" or not isinstance(fields.get("sdp"), str):
        raise BadInput('an offer needs "type": "offer" and "sdp": a string', "bad_offer")
    actor = fields.get("actor")
    if actor is not None and not isinstance(actor, str):
        raise BadInput("actor must be a string", "bad_offer")
    text = _without_mdns(fields["sdp"])
    check_sdp(text)
    knobs = {name: _count(fields, name) for name in ("hop", "lookahead", "steps")}
    return Offer(text, actor or None, **knobs)


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise BadInput(f"{name} must be a whole number", "bad_offer")
    return value


def _without_mdns(text: str) -> str:
    """Drop ``….local`` candidates: resolving one may cost a second, and the browser calls us first anyway."""

    def is_mdns(line: str) -> bool:
        words = line.split()
        return line.startswith("a=candidate:") and len(words) > 4 and words[4].lower().endswith(".local")

    kept = [line for line in text.splitlines() if not is_mdns(line)]
    return "\r\n".join([*kept, ""])


def check_sdp(text: str) -> None:
    """Raise ``BadInput`` (``bad_sdp``) unless the SDP offers what a session needs, and nothing else.

    One video section and one audio section that the client receives; at most one application section
    (data channels). More sections would be received by aiortc into queues that nobody reads.
    """
    try:
        description = sdp.SessionDescription.parse(text)
    except Exception as error:  # the parser raises whatever its string handling runs into
        raise BadInput(f"the SDP cannot be parsed ({type(error).__name__}: {error})", "bad_sdp") from error
    kinds = [media.kind for media in description.media]
    for kind in ("audio", "video"):
        if kinds.count(kind) != 1:
            raise BadInput(f"the offer must have one {kind} section, not {kinds.count(kind)}", "bad_sdp")
    if kinds.count("application") > 1 or not set(kinds) <= {"audio", "video", "application"}:
        raise BadInput("the offer has sections besides audio, video and one data channel", "bad_sdp")
    _check_bundle(description)
    for media in description.media:
        _check_section(media)


def _check_bundle(description: sdp.SessionDescription) -> None:
    mids = [media.rtp.muxId for media in description.media]
    bundled = [mid for group in description.group if group.semantic == "BUNDLE" for mid in group.items]
    if len(set(mids)) != len(mids) or "" in mids or not set(bundled) <= set(mids):
        raise BadInput("the offer's sections and its BUNDLE group do not fit together (a=mid)", "bad_sdp")


def _check_section(media: sdp.MediaDescription) -> None:
    if media.kind in ("audio", "video") and media.direction not in ("recvonly", "sendrecv"):
        raise BadInput(f"the offer does not receive {media.kind}", "bad_sdp")
    if not media.ice.usernameFragment or not media.ice.password:
        raise BadInput(f"the {media.kind} section has no ICE user name or password", "bad_sdp")
    if media.dtls is None or not media.dtls.fingerprints:
        raise BadInput(f"the {media.kind} section has no DTLS fingerprint", "bad_sdp")
