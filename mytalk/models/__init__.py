"""The trained networks (torch); imported by export/ and training/ only."""
