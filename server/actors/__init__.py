"""Which actors there are, which are in memory, and how new ones come in."""
