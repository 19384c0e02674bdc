"""Launching, watching, stopping and resuming a run's processes. No torch, and small: it outlives the browser."""
