"""Launching, watching, stopping and resuming a run's processes. No torch: the supervisor stays small."""
