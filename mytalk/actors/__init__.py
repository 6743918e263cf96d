"""Actor packages: made from a video, checked, loaded, tuned to one person."""
