"""The checkpoint store: manifests, packs, the write protocol, retention, reading back and export. No torch."""
