"""The pages, one module each with one `render()`. They hold no logic: they ask, build and show."""
