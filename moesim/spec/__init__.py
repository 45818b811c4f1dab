"""YAML files: their schemas, their errors, and the values of lower floors made from them. pydantic lives here alone."""
