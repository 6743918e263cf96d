"""Inference engines behind one Protocol; picked by name."""
