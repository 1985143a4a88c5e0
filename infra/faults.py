"""What is said when a stack's file is wrong: key, value, limit and line. Knows no setting."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

Key = tuple[str, ...]  # ("network", "nat")


class SettingsError(Exception):
    """A stack's file does not say what it should: a line for each fault, with key, value, limit and place."""


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name} is not UTF-8 text: {error.reason}, at byte {error.start}") from error


def config_in(text: str, name: str) -> dict[str, Any]:
    """The configuration in a stack's file, keys as Pulumi spells them."""
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else 1
        tab = "\t" in text.splitlines()[at - 1] if at <= len(text.splitlines()) else False
        hint = "; indent with spaces, not tabs" if tab else "; look at its indentation, colons and quotes"
        raise SettingsError(f"{name}, line {at} or the one before: {error.problem}{hint}") from error
    config = cast("dict[str, Any]", content).get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise SettingsError(f"{name} needs a section `config:` with settings below it: Pulumi.dev.yaml shows one")
    return {str(key): value for key, value in cast("dict[Any, Any]", config).items()}


def explained(fault: Mapping[str, Any], descriptions: Mapping[Key, str | None]) -> list[tuple[Key, str]]:
    """A fault that pydantic found, in the words of the setting that it is about; several if settings do not agree."""
    key, value, kind = tuple(map(str, fault["loc"]))[:2], fault["input"], fault["type"]
    name = ".".join(key)
    if kind == "missing":
        return [(key, f"{name} is missing: {descriptions[key]}")]
    if kind == "extra_forbidden":
        siblings = [other[-1] for other in descriptions if other[:-1] == key[:-1]]
        near = difflib.get_close_matches(key[-1], siblings, 1)
        hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(siblings)
        return [(key, f"{name} is no setting: {hint}")]
    if kind == "value_error" and not key:  # each line begins with the key that it is about
        lines = str(fault["ctx"]["error"]).splitlines()
        return [(tuple(line.split(" ")[0].split(".")), line) for line in lines]
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return [(key, f"{name} is {value}, a number: it has to be in quotes")]
    why = f" ({fault['ctx']['error']})" if kind == "value_error" else ""
    return [(key, f"{name} is {json.dumps(value)}: {descriptions[key]}{why}")]


def lines_of(path: Path, project: str) -> dict[Key, list[int]]:
    """Where each key stands in a stack's file: twice is a mistake that YAML itself lets pass."""
    lines: dict[Key, list[int]] = {}

    def walk(node: yaml.Node | None, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = (*key, str(name.value).removeprefix(f"{project}:"))
                lines.setdefault(inner[1:], []).append(name.start_mark.line + 1)
                walk(value, inner)

    if path.exists():
        walk(yaml.compose(text_of(path)), ())
    return lines


def place(lines: dict[Key, list[int]], key: Key) -> str:
    at = lines.get(key) or lines.get(key[:1])
    return f", line {at[-1]}" if key and at else ""
