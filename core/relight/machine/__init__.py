"""What the machine is doing: processors, memory, disk and GPUs, read so that no training ever waits for it."""
