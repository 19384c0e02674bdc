"""The exact state of a training: what is captured at a step edge, and how it comes back."""
