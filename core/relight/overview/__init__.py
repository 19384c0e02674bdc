"""Reads a whole run: its summary, work at risk, verification and story, for the command line and dashboard alike."""
