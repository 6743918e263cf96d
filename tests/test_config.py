from __future__ import annotations

import tomllib
from dataclasses import FrozenInstanceError, fields

import pytest

from mytalk.config import SessionConfig
from mytalk.errors import BadInput


def test_defaults_are_valid_and_frozen() -> None:
    config = SessionConfig()
    assert (config.hop_frames, config.lookahead_frames, config.close_frames) == (2, 1, 4)
    with pytest.raises(FrozenInstanceError):
        config.hop_frames = 3  # type: ignore[misc]


def test_every_field_is_documented() -> None:
    assert SessionConfig.__doc__ is not None
    for field in fields(SessionConfig):
        assert f"{field.name}:" in SessionConfig.__doc__


def test_a_table_from_toml_sets_what_it_names() -> None:
    table = tomllib.loads("hop_frames = 3\nlive_delay_s = 0.4\npushed_start_s = 0")
    config = SessionConfig.from_mapping(table)
    assert (config.hop_frames, config.live_delay_s, config.pushed_start_s) == (3, 0.4, 0)
    assert config.lookahead_frames == SessionConfig().lookahead_frames


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"hop_frame": 2}, "unknown session setting 'hop_frame'"),
        ({"hop_frames": 0}, "hop_frames must be in 1..250"),
        ({"hop_frames": 2.0}, "hop_frames must be a whole number"),
        ({"hop_frames": True}, "hop_frames must be a whole number"),
        ({"live_delay_s": "0.3"}, "live_delay_s must be a number"),
        ({"live_delay_s": float("nan")}, "live_delay_s must be in"),
        ({"close_frames": 6}, "close_frames must be in 1..5"),
        ({"tail_frames": 3}, "tail_frames must not be less"),
        ({"hop_frames": 8}, "ahead_frames must be at least twice"),
        ({"live_backlog_s": 0.3}, "live_backlog_s must be in"),
        ({"live_delay_s": 0.8, "live_backlog_s": 0.8}, "live_backlog_s must be at least"),
    ],
)
def test_bad_settings_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        SessionConfig.from_mapping(table)
    assert caught.value.code == "bad_config"
