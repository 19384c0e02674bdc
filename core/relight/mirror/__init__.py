"""Copies of runs in S3 or in a folder on another disk: made while a run trains, and fetched back."""
