"""What the commands tell people, in columns."""

from service.bundle import GateRecord
from training.evaluate import Metrics
from training.registry import Version


def of_measures(metrics: dict[str, Metrics]) -> str:
    rows = [["source", "reviews", "accuracy", "95 % interval", "AUC", "calibration error"]] + [
        [name, f"{m.reviews:,}", f"{m.accuracy:.4f}", f"{m.low:.4f} to {m.high:.4f}", f"{m.auc:.4f}", f"{m.ece:.4f}"]
        for name, m in metrics.items()
    ]
    return _table(rows)


def of_gate(record: GateRecord) -> str:
    rows = [["slice", "reviews", "challenger", "champion", "95 % interval of the difference"]] + [
        [
            part.name,
            f"{part.reviews:,}",
            f"{part.challenger:.4f}",
            "" if part.champion is None else f"{part.champion:.4f}",
            "" if part.low is None or part.high is None else f"{part.low:+.4f} to {part.high:+.4f}",
        ]
        for part in record.slices
    ]
    return _table(rows)


def of_versions(versions: list[Version]) -> str:
    measures = sorted({name for version in versions for name in version.metrics if name.startswith("accuracy")})
    rows = [["version", "aliases", "gate", *measures, "trained at", "git", "data", "scorer"]] + [
        [
            str(version.number),
            " ".join(f"@{alias}" for alias in version.aliases),
            version.tags.get("gate", ""),
            *(f"{version.metrics[name]:.4f}" if name in version.metrics else "" for name in measures),
            version.tags.get("trained_at", ""),
            version.tags.get("git_sha", "")[:9] + ("+" if version.tags.get("git_dirty") == "true" else ""),
            version.tags.get("data_digest", "")[:9],
            version.tags.get("scorer_sha256", "")[:12],
        ]
        for version in versions
    ]
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
