"""The fields of one Hugging Face configuration, read so that everything wrong with them is said at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.errors import Problem


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
            self._wrong(names[0], f"missing; model_type {self.data['model_type']} needs it")
            return 1
        value = self.data[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._wrong(name, f"write a whole number above zero, not {value!r}")
            return 1
        return value

    def get(self, name: str, otherwise: object = None) -> object:
        """A field whose absence (or null) means `otherwise` in the configuration class, and which has its type."""
        value = self.data.get(name)
        if value is None or otherwise is None:
            return otherwise if value is None else value
        kinds = {int: int, bool: bool, float: (int, float), tuple: list}[type(otherwise)]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            words = {int: "a whole number", bool: "true or false", float: "a number", tuple: "a list"}
            self._wrong(name, f"write {words[type(otherwise)]}, not {value!r}")
            return otherwise
        return value

    def part(self, name: str) -> Config:
        """A mapping inside the file, which shares the list of problems."""
        return Config(
            self.file, {"model_type": f"{self.data['model_type']} ({name})", **self.get(name, {})}, self.problems
        )

    def unsupported(self, name: str) -> None:
        """Refuse a feature that would change the shapes."""
        if self.get(name):
            self._wrong(name, f"{self.data[name]!r} changes the shapes in a way moesim does not know")

    def _wrong(self, name: str, message: str) -> None:
        self.problems.append(Problem(message, name, self.file))
