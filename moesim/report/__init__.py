"""Files of results: pictures, timelines for Perfetto, Markdown, HTML."""
