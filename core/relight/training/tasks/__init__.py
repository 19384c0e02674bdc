"""The built-in tasks: models, data and training steps."""
