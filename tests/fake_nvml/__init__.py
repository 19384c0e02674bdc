"""A fake NVIDIA management library that the real Python binding loads: cards for machines that have none."""
