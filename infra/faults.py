"""What is said when a stack's file is wrong: key, value, limit and line. Knows no setting."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str, ...]  # ("network", "nat")


def explained(key: Key, fault: Mapping[str, Any], descriptions: Mapping[Key, str | None]) -> str:
    """A fault that pydantic found, in the words of the setting that it is about."""
    name, value, kind = ".".join(key), fault["input"], fault["type"]
    if kind == "missing":
        return f"{name} is missing: {descriptions[key]}"
    if kind == "extra_forbidden":
        siblings = [other[-1] for other in descriptions if other[:-1] == key[:-1]]
        near = difflib.get_close_matches(key[-1], siblings, 1)
        return f"{name} is no setting: {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(siblings)}"
    if kind == "value_error" and not key:
        return str(fault["ctx"]["error"])  # settings that do not agree, said whole
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f'{name} is {value}, a number: quote it, as in "{value}"'
    why = f" ({fault['ctx']['error']})" if kind == "value_error" else ""
    return f"{name} is {json.dumps(value)}: {descriptions[key]}{why}"


def lines_of(path: Path, project: str) -> dict[Key, list[int]]:
    """Where each key stands in a stack's file: twice is a mistake that YAML itself lets pass."""
    lines: dict[Key, list[int]] = {}

    def walk(node: yaml.Node | None, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = (*key, name.value.removeprefix(f"{project}:"))
                lines.setdefault(inner[1:], []).append(name.start_mark.line + 1)
                walk(value, inner)

    if path.exists():
        walk(yaml.compose(path.read_text()), ())
    return lines


def place(lines: dict[Key, list[int]], key: Key) -> str:
    at = lines.get(key) or lines.get(key[:1])
    return f", line {at[-1]}" if key and at else ""
