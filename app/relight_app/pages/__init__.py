"""The pages: one module each, with one `render()`. They hold no logic: they read, build and show."""
