"""The checkpoint store: format, write protocol, reading back, retention, export, and the writer process. No torch."""
