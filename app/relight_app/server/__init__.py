"""The process that serves the dashboard: guard, tailer, live stream, downloads. Pages read `settings` and `urls`."""
