"""The locks say what pyproject.toml says."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
GROUPS: dict[str, list] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
LOCKS = {
    "requirements.lock": set(GROUPS),
    "service/requirements.lock": {"service"},
    "service/requirements-batch.lock": {"service", "batch"},
}


def pins(lock: str) -> dict[str, str]:
    """Version of each package in a lock."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+!]+)", (ROOT / lock).read_text(), re.MULTILINE))


def wanted(lock: str) -> list[Requirement]:
    """What its groups ask for; a group that another includes is among them."""
    return [Requirement(line) for group in LOCKS[lock] for line in GROUPS[group] if isinstance(line, str)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_to_a_version_it_allows(lock: str):
    found = pins(lock)

    unmet = [str(r) for r in wanted(lock) if r.name not in found or not r.specifier.contains(found[r.name])]

    assert unmet == [], "stale: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_is_locked_for_a_requirement_that_is_gone(lock: str):
    """uv writes under each package who asked for it, and from which group."""
    blocks = re.split(r"^(?=[\w.-]+==)", (ROOT / lock).read_text(), flags=re.MULTILINE)

    asked = {block.partition("==")[0] for block in blocks if "(pyproject.toml:" in block}

    assert asked == {r.name for r in wanted(lock)}, "stale: run `make lock`"


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.startswith("service/")])
def test_an_image_installs_the_versions_that_were_tested(lock: str):
    everything, image = pins("requirements.lock"), pins(lock)

    assert {name: version for name, version in image.items() if everything.get(name) != version} == {}
    assert not {"mlflow", "scikit-learn", "pandas"} & set(image)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_lock_names_a_registry(lock: str):
    text = (ROOT / lock).read_text()

    unhashed = [line for line in re.findall(r"^[\w.-]+==.*$", text, re.MULTILINE) if not line.endswith("\\")]

    assert unhashed == []
    assert "://" not in text
