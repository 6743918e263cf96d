"""Calls: peers, tracks, receiving speech, encoding pictures."""
