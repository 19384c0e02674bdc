"""Rehearses a kill and a resume of a task, compares the result with an uninterrupted run and explains differences."""
