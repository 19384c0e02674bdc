"""What the benchmark scripts share: numbers, tables, facts about the machine, dated results."""
