"""Run folders: their layout, records, progress, status, and how they are found and created. No torch."""
