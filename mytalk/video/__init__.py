"""Video and audio files in and out, and pictures as they were coded."""
