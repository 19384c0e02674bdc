"""Weights that come from elsewhere and go elsewhere: foreign files, what fits which model, exports."""
