"""The repository on disk: registry, collections, validity ranges. Knows no plugin."""
