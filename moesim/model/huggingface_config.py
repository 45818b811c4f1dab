"""The fields of one Hugging Face configuration, read so that everything wrong with them is said at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.errors import Problem

# Python type of a default -> types that the file may hold, and their name.
_JSON = {
    int: (int, "a whole number, at least 0"),
    bool: (bool, "true or false"),
    float: ((int, float), "a number"),
    tuple: (list, "a list"),
    dict: (dict, "a mapping"),
    str: (str, "text"),
}


@dataclass(slots=True)
class Config:
    """Fields of one file; remembers what is missing so that all of it is said at once."""

    file: str
    data: dict
    problems: list[Problem] = field(default_factory=list)

    def need(self, *names: str) -> int:
        """A positive whole number under the first of these names that the file has."""
        name = next((name for name in names if self.data.get(name) is not None), None)
        if name is None:
            self.wrong(names[0], f"missing; model_type {self.data['model_type']} needs it")
            return 1
        value = self.data[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.wrong(name, f"write a whole number above zero, not {value!r}")
            return 1
        return value

    def count(self, name: str, otherwise: int) -> int:
        """A positive whole number whose absence (or null) means `otherwise` in the configuration class."""
        return otherwise if self.data.get(name) is None else self.need(name)

    def get(self, name: str, otherwise: object = None) -> object:
        """A field whose absence (or null) means `otherwise` in the configuration class, and which has its type."""
        value = self.data.get(name)
        if value is None or otherwise is None:
            return otherwise if value is None else value
        kinds, words = _JSON[type(otherwise)]
        fits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(otherwise, bool)
        if not fits or (isinstance(value, int) and value < 0):
            self.wrong(name, f"write {words}, not {value!r}")
            return otherwise
        return value

    def per_layer(self, name: str) -> list:
        """A list with one entry a layer; empty when the file has none."""
        entries, layers = self.get(name, ()), self.need("num_hidden_layers")
        if entries and len(entries) != layers:
            self.wrong(name, f"lists {len(entries)} layers, but num_hidden_layers is {layers}")
            return []
        return list(entries)

    def part(self, name: str) -> Config:
        """A mapping inside the file, which shares the list of problems."""
        inside = self.get(name, {})
        return Config(self.file, {**inside, "model_type": f"{self.data['model_type']} ({name})"}, self.problems)

    def unsupported(self, name: str) -> None:
        """Refuse a feature that would change the shapes."""
        if self.get(name):
            self.wrong(name, f"{self.data[name]!r} changes the shapes in a way moesim does not know")

    def wrong(self, name: str, message: str) -> None:
        """Remember a problem of one field."""
        self.problems.append(Problem(message, name, self.file))
