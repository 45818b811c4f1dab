"""Pictures of results, as PNG files. matplotlib is imported when one is drawn."""
