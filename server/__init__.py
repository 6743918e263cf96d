"""The asyncio shell around ``mytalk``: WebRTC out, speech in, one process."""

import os

# Before numpy is loaded: its BLAS would split even the log-mel's small products over threads, which then spin
# between the calls and take most of a core from the engine and the encoder (measured: 72 % of one core).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
