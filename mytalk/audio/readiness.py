"""How long live speech waits for its pictures: measured, so that a slow machine gets the delay it needs."""

from __future__ import annotations

from collections import deque


class Readiness:
    """Time from a sample's arrival to its picture, beyond what hop and lookahead need.

    It is compute, and packets that were late. ``allowance_s`` covers nearly all pictures of the last ten
    seconds; a stall of the network, which is over when it is noticed, is no reason for more delay.
    """

    WINDOW = 250  # pictures
    ENOUGH = 50  # from which on what was measured counts
    SHARE = 0.97
    MARGIN_S = 0.015  # for other sessions' jobs, and what drift takes before it is noticed
    RENEW_EVERY = 12  # pictures between two looks at all of the window

    def __init__(self, most_s: float) -> None:
        """most_s: what takes longer was held up and teaches nothing."""
        self.allowance_s = 0.0  # until enough was measured
        self._most_s = most_s
        self._took: deque[float] = deque(maxlen=self.WINDOW)
        self._since_renewal = 0

    def note(self, took_s: float) -> None:
        """A picture took so long."""
        if took_s > self._most_s:
            return
        self._took.append(took_s)
        self._since_renewal += 1
        if len(self._took) >= self.ENOUGH and self._since_renewal >= self.RENEW_EVERY:
            self._since_renewal = 0
            slow_s = sorted(self._took)[int(self.SHARE * (len(self._took) - 1))]
            self.allowance_s = max(slow_s + self.MARGIN_S, 0.0)
