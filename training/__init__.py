"""Training of the two models; the only users of ``mytalk.models`` besides export."""
