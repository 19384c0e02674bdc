"""Tasks as the launch form and the command line see them: configs with their fields and bounds. No torch."""
