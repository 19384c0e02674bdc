"""Several processes ("ranks") train one run: how they find each other, agree at step edges, and save one checkpoint."""
