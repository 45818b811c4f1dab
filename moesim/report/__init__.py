"""Files of results: what ``--out`` writes, pictures, timelines for Perfetto, Markdown, HTML."""
