"""Landmarks → pictures of an actor, for one session or several together."""
