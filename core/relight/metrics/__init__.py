"""Append-only metric files: written so that kill -9 loses nothing, and read as main lines and ghosts. No torch."""
