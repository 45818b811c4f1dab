"""From a published inference figure to a load or a step."""
