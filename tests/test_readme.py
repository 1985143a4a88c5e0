"""What the README says exists."""

import re
import tomllib
from pathlib import Path

import pytest

import sentiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMMAND = r"(?:^|`|/)sentiment ([a-z]+)((?: --[a-z-]+)*)"


def test_every_make_target_it_names_exists():
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE))

    assert {a or b for a, b in named} <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_command_and_option_it_names_exists():
    for name, rest in re.findall(COMMAND, README, re.MULTILINE):
        assert name in sentiment.cli.commands
        command = sentiment.cli.commands[name]
        loaded = command.load() if isinstance(command, sentiment.Elsewhere) else command
        options = {o for parameter in loaded.params for o in parameter.opts}
        assert set(rest.split()) <= options


def test_every_command_is_in_it():
    assert set(sentiment.cli.commands) == {name for name, _ in re.findall(COMMAND, README, re.MULTILINE)}


def test_its_tree_is_the_tree():
    tree = README.partition("## Where things are")[2].split("```")[1]
    folder, listed = "", set()
    for line in tree.strip().splitlines():
        names = re.match(r"( *)([\w./]+(?:, [\w.]+)*)", line)
        assert names
        folder = folder if names[1] else ""
        for name in names[2].split(", "):
            listed.add(folder + name.rstrip("/"))
            folder = name if name.endswith("/") else folder

    missing = {name for name in listed if not (ROOT / name).exists()}
    modules = {
        str(path.relative_to(ROOT))
        for package in ("infra", "service", "training")
        for path in (ROOT / package).glob("*.py")
    }

    assert missing == set()
    assert {module for module in modules if not module.endswith("__init__.py")} <= listed


@pytest.mark.parametrize("option", ["--require-hashes", "--no-build-isolation"])
def test_the_plain_commands_are_those_of_the_makefile(option: str):
    assert option in README
    assert option in MAKEFILE


def test_the_product_has_one_name():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "sentiment"
    assert README.startswith("# sentiment\n")
