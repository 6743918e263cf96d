"""The device: who computes next, what fits on it, and what gives way when too much is asked."""
