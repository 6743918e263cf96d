"""Facial landmarks: layout data, pose normalisation, drawing, detection from video."""
