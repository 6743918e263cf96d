"""Trained PyTorch models → bundles that the engines serve."""
