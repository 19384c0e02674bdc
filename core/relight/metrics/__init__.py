"""Append-only metric files that lose nothing on kill -9, and how they are read. No torch."""
