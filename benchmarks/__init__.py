"""Measurements of a running server, from outside."""
