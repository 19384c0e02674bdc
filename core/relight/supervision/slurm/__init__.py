"""What runs in a job of Slurm: the supervisor, and the launcher for several nodes."""
