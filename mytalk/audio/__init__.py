"""Speech on its way in: any PCM to two rates, packets to a gapless line, the encoder's features."""
