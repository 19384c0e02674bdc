"""Batches that can be resumed at every one: orders, samples' random numbers, data-loading processes."""
