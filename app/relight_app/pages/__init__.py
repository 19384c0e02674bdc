"""The pages: one module each, with one `list_mounts()`, which names what is on the page. They hold no logic."""
