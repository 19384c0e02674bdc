"""The pages: one module each, with one `render()`, which mounts the page's parts. They hold no logic."""
