"""A person's own training script as a run: what `relight.init` returns, and what is behind it."""
