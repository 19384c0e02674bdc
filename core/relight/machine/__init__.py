"""Reads what the machine is doing (processors, memory, disk, GPUs) without ever making a training wait."""
