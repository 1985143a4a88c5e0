"""One thing looked at: ok, to be fixed, or not to be told. Knows nothing of what is looked at."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 30  # a container engine that wakes up takes half of it


class Lacking(Exception):  # noqa: N818 - what it says is no error of ours
    """What was looked at is not there, or will not do."""


@dataclass(frozen=True)
class Check:
    check: str
    status: str  # ok, fix, skip
    found: str
    fix: str = ""


def check(what: str, look: Callable[[], str], fix: str = "") -> Check:
    """Look, and say what was found. What may be lacking has no `fix`, and is skipped then.

    Any failure other than Lacking (a denied permission, no network, what nobody foresaw) is a skip: the other checks
    are still of use.
    """
    try:
        return Check(what, "ok", look())
    except Lacking as lacking:
        return Check(what, "fix", str(lacking), fix) if fix else Check(what, "skip", str(lacking))
    except Exception as error:
        return Check(what, "skip", " ".join(str(error).split()))


def same(found: str, wanted: str) -> str:
    if found != wanted:
        raise Lacking(f"{found}, not {wanted}")
    return found


def output(*words: str, cwd: Path) -> str:
    """What a command prints, on one line."""
    try:
        done = subprocess.run(words, cwd=cwd, timeout=TIMEOUT_S, input="", capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise Lacking(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Lacking(f"`{' '.join(words)}` did not answer within {TIMEOUT_S:g} s") from None
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise Lacking(" ".join(said.split())) from error
    return " ".join(done.stdout.split())


def version(text: str, at_least: str = "0", at_most: str = "") -> str:
    """The first version in a text. Raises Lacking outside of the limits; 1.37.4 is at most 1.37."""
    found: str = re.findall(r"\d+(?:\.\d+)+", text)[0]
    have, least, most = ([int(part) for part in each.split(".") if part] for each in (found, at_least, at_most))
    if have < least or (most and have[: len(most)] > most):
        raise Lacking(f"{found}, not {at_least} {f'to {at_most}' if at_most else 'or newer'}")
    return found
