"""Rehearse a kill and a resume of a task, compare the result with an uninterrupted run, and explain what differs."""
