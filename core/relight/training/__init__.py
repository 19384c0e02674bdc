"""Everything that needs torch: the trainer and its session, exact state, snapshots, loaders, and the built-in tasks."""
