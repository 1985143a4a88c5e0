"""Would IAM allow it? Identity policies only, and only the operators that our policies use; an unknown one raises."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

Context = Mapping[str, str | list[str]]

OPERATORS: dict[str, Callable[[list[str], list[str]], bool]] = {
    "ArnLike": lambda actual, wanted: any(fnmatchcase(a, w) for a in actual for w in wanted),
    "Bool": lambda actual, wanted: any(a in wanted for a in actual),
    "Null": lambda actual, wanted: str(not actual).lower() in wanted,
    "StringEquals": lambda actual, wanted: any(a in wanted for a in actual),
    "StringNotEquals": lambda actual, wanted: all(a not in wanted for a in actual),
}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(statements: Iterable[dict[str, Any]], action: str, resource: str, context: Context | None = None) -> bool:
    """Whether a statement allows it and none denies it. `context` holds the request's condition keys."""
    context = context or {}
    effects = [s["Effect"] for s in statements if _applies(s, action, resource, context)]
    return "Allow" in effects and "Deny" not in effects


def _applies(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    return (
        any(fnmatchcase(action.lower(), pattern.lower()) for pattern in listed(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in _known(statement["Resource"], context))
        and all(
            OPERATORS[operator.removeprefix("ForAnyValue:")](listed(context.get(key, [])), _known(wanted, context))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _known(patterns: Any, context: Context) -> list[str]:
    """With policy variables replaced; as in IAM, a pattern whose variable has no value matches nothing."""
    known: list[str] = []
    for pattern in listed(patterns):
        names = re.findall(r"\$\{(.+?)\}", pattern)
        if all(name in context for name in names):
            known.append(re.sub(r"\$\{(.+?)\}", lambda m: str(context[m[1]]), pattern))
    return known
