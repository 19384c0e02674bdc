"""What can be trained, as the launch form and the command line see it: configs, their fields and bounds, no torch."""
