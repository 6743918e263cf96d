"""The asyncio shell around ``mytalk``: WebRTC out, speech in, one process."""
