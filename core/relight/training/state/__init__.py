"""The exact state of a training: captured at a step edge, and restored."""
