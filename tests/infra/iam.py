"""Would IAM allow it? Identity policies only, and only the operators that our policies use; an unknown one raises."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

Context = Mapping[str, str | list[str]]

OPERATORS: dict[str, Callable[[list[str], list[str]], bool]] = {
    "ArnLike": lambda actual, wanted: any(fnmatchcase(a, w) for a in actual for w in wanted),
    "ArnNotLike": lambda actual, wanted: bool(wanted) and not any(fnmatchcase(a, w) for a in actual for w in wanted),
    "Bool": lambda actual, wanted: any(a in wanted for a in actual),
    "Null": lambda actual, wanted: str(not actual).lower() in wanted,
    "StringEquals": lambda actual, wanted: any(a in wanted for a in actual),
    "StringNotEquals": lambda actual, wanted: bool(wanted) and all(a not in wanted for a in actual),
}
VARIABLE = re.compile(r"\$\{([^,}]+)(?:, *'([^']*)')?\}")  # ${key} or ${key, 'default'}


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
    """With policy variables replaced. A pattern whose variable has neither value nor default is left out: nothing is
    like it, and nothing is found unlike it either, as IAM may then drop the statement.
    """
    return [
        VARIABLE.sub(lambda m: str(context.get(m[1], m[2])), pattern)
        for pattern in listed(patterns)
        if all(context.get(m[1], m[2]) is not None for m in VARIABLE.finditer(pattern))
    ]
