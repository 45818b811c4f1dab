"""Reports as pages that open offline: a study's result becomes a `Page`, and a `Page` HTML and Markdown."""
