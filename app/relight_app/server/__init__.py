"""The process that serves the dashboard: guard, live stream, history, downloads. Pages use `settings` and `urls`."""
