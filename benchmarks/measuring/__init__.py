"""What the benchmark scripts share: numbers, tables, the machine, the dated results."""
