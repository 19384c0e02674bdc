"""Slurm's commands: submitting, asking about, and ending jobs. Knows nothing of runs."""
