"""The gate: may this challenger take the champion's place? A paired test on the same holdout, and absolute floors.

Knows scores, labels and margins; knows nothing of where models are kept. `judge` decides, `draw` shows, `compare` does
both for a candidate on disk.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from service.bundle import GATE, Calibration, GateRecord, Lineage, Slice, write_json
from service.scorer import Scorer
from training.candidate import Candidate
from training.data import Reviews
from training.evaluate import correct, measure_by_source, reliability, score, slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOOTSTRAP = 10_000  # draws
SMALLEST_SLICE = 100  # reviews: below, an interval is wider than any margin worth setting
SMALLEST_CALIBRATED = 500  # reviews: at 200, a quarter of perfectly honest models would exceed max_ece by chance


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fractions. The floors hold for every model, so that repeated "not worse" cannot ratchet quality down."""

    margin: float = 0.01  # the challenger may be this much less accurate on all reviews together ...
    slice_margin: float = 0.02  # ... and its whole interval must not be further below on any slice
    max_ece: float = 0.08  # expected calibration error, on each source large enough to measure it
    min_auc: float = 0.7  # on each source: accuracy alone is easily had where most labels are equal
    floors: Mapping[str, float] = field(default_factory=lambda: {"imdb": 0.89, "rotten_tomatoes": 0.76})
    default_floor: float = 0.65  # accuracy on a source that floors does not name


@dataclass(frozen=True)
class Champion:
    """The model to beat: its version and its scores (n,) on the same reviews."""

    version: int
    sha256: str
    scores: np.ndarray


def compare(
    candidate: Candidate, holdout: Reviews, champion: tuple[int, Scorer] | None, settings: Settings
) -> GateRecord:
    """Score the holdout with both models, judge, and leave gate.json and the picture with the candidate."""
    scores = score(candidate.scorer(), holdout)
    beaten = Champion(champion[0], champion[1].sha256, score(champion[1], holdout)) if champion else None
    record = judge(holdout, scores, lineage=candidate.record.lineage, champion=beaten, settings=settings)
    draw(candidate.report, record, holdout, scores, beaten)
    write_json(candidate.bundle / GATE, record)
    return record


def judge(
    reviews: Reviews,
    scores: np.ndarray,
    *,
    lineage: Lineage,
    champion: Champion | None,
    settings: Settings,
) -> GateRecord:
    """Compare the challenger's scores (n,) on the holdout with the champion's, or with the floors alone if none."""
    right = correct(reviews.labels, scores)
    champion_right = correct(reviews.labels, champion.scores) if champion else None
    judged = tuple(
        _judge_slice(name, right[mask], champion_right[mask] if champion_right is not None else None, settings)
        for name, mask in slices(reviews)
    )
    metrics = measure_by_source(reviews, scores)
    calibration = tuple(Calibration(name=name, auc=m.auc, ece=m.ece) for name, m in metrics.items())
    reasons = [part.reason for part in judged if part.reason]
    for name, m in metrics.items():
        if m.auc < settings.min_auc:
            reasons.append(f"{name}: area under the ROC curve {m.auc:.3f} is below {settings.min_auc}")
        if m.ece > settings.max_ece and m.reviews >= SMALLEST_CALIBRATED:
            reasons.append(f"{name}: expected calibration error {m.ece:.3f} is above {settings.max_ece}")
    return GateRecord(
        verdict="rejected" if reasons else "passed",
        reasons=tuple(reasons),
        challenger=lineage,
        champion_version=champion.version if champion else None,
        champion_sha256=champion.sha256 if champion else None,
        holdout_digest=reviews.digest,
        slices=judged,
        calibration=calibration,
        mcnemar_p=mcnemar(right, champion_right) if champion_right is not None else None,
        settings={**asdict(settings), "floors": dict(settings.floors)},
    )


def _judge_slice(name: str, right: np.ndarray, champion_right: np.ndarray | None, settings: Settings) -> Slice:
    accuracy = float(right.mean())
    kind, _, source = name.partition(" ")
    floor = settings.floors.get(source, settings.default_floor) if kind == "source" else None
    reasons = [f"accuracy {accuracy:.4f} is below its floor of {floor}"] if floor and accuracy < floor else []
    if champion_right is None:
        return Slice(name=name, reviews=len(right), challenger=accuracy, floor=floor, reason=_said(name, reasons))

    low, high = difference_interval(right, champion_right)
    interval = f"interval {low:+.4f} to {high:+.4f} against the champion"
    # A holdout too small to show the margin is asked what it can show: else it would reject most equal models.
    margin = max(settings.margin, high - low)
    if name == "all" and low < -margin:
        reasons.append(f"the {interval} goes below {-margin:.4g}")
    elif len(right) >= SMALLEST_SLICE and high < -settings.slice_margin:
        reasons.append(f"the whole {interval} is below {-settings.slice_margin}")
    return Slice(
        name=name,
        reviews=len(right),
        challenger=accuracy,
        champion=float(champion_right.mean()),
        low=low,
        high=high,
        floor=floor,
        reason=_said(name, reasons),
    )


def _said(name: str, reasons: list[str]) -> str:
    return f"{name}: {'; '.join(reasons)}" if reasons else ""


def difference_interval(right: np.ndarray, champion_right: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % paired bootstrap interval of the difference in accuracy over n reviews.

    Drawing n pairs with replacement is drawing the counts (only the challenger right, only the champion right, neither
    or both) from a multinomial distribution, which takes no time.
    """
    n = len(right)
    shares = np.array([(right & ~champion_right).mean(), (champion_right & ~right).mean()])
    draws = np.random.default_rng(0).multinomial(n, [*shares, 1 - shares.sum()], size=BOOTSTRAP)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(right: np.ndarray, champion_right: np.ndarray) -> float:
    """Two-sided exact p-value of McNemar's test (1947): are the reviews that only one gets right split evenly?"""
    only_challenger, only_champion = int((right & ~champion_right).sum()), int((champion_right & ~right).sum())
    discordant = only_challenger + only_champion
    return float(binomtest(only_challenger, discordant).pvalue) if discordant else 1.0


def draw(path: Path, record: GateRecord, reviews: Reviews, scores: np.ndarray, champion: Champion | None) -> None:
    """The report as a picture: who is compared, where the scores lie, how honest they are, slice by slice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    against = f"version {champion.version}" if champion else "the floors (first model)"
    figure.suptitle(
        f"Gate: {record.verdict.upper()}, challenger {record.challenger.scorer_sha256[:12]} against {against}\n"
        + ("\n".join(record.reasons[:3]) or f"{len(reviews):,} holdout reviews"),
        color="tab:red" if record.reasons else "black",
    )
    axes = figure.subplot_mosaic([["scores", "reliability"], ["slices", "slices"]], height_ratios=[1, 1.1])
    models = {"challenger": (scores, "tab:blue")} | ({"champion": (champion.scores, "tab:gray")} if champion else {})

    axes["scores"].set(title="Scores by label", xlabel="probability of positive", ylabel="reviews")
    for label, style in ((1, "-"), (0, "--")):
        for name, (values, colour) in models.items():
            title = f"{name}, {'positive' if label else 'negative'} reviews"
            chosen = values[reviews.labels == label]
            axes["scores"].hist(chosen, bins=50, range=(0, 1), histtype="step", color=colour, ls=style, label=title)

    axes["reliability"].set(title="Reliability", xlabel="mean score of the bucket", ylabel="share that is positive")
    axes["reliability"].plot([0, 1], [0, 1], color="lightgray")
    for name, (values, colour) in models.items():
        _, predicted, observed = zip(*reliability(reviews.labels, values), strict=True)
        axes["reliability"].plot(predicted, observed, "o-", color=colour, label=name)
    axes["scores"].legend(fontsize="small")
    axes["reliability"].legend(fontsize="small")

    _draw_slices(axes["slices"], record)
    figure.savefig(path, dpi=100)


def _draw_slices(axes: "Axes", record: GateRecord) -> None:
    shown = record.slices[::-1]
    axes.set_yticks(range(len(shown)), [f"{s.name} ({s.reviews:,})" for s in shown])
    for y, part in enumerate(shown):
        colour = "tab:red" if part.reason else "tab:blue"
        if part.low is not None and part.high is not None and part.champion is not None:
            difference = part.challenger - part.champion
            axes.plot([part.low, part.high], [y, y], "|-", color=colour)
            axes.plot(difference, y, "o", color=colour)
        else:
            axes.plot(part.challenger, y, "o", color=colour)
            axes.annotate(f"{part.challenger:.3f}", (part.challenger, y), (6, 4), textcoords="offset points")
        if part.floor and part.champion is None:
            axes.plot(part.floor, y, "|", color="black", markersize=18)
    if record.champion_version is None:
        axes.set(title="Accuracy by slice (bars: floors)", xlabel="accuracy")
    else:
        axes.axvline(0, color="lightgray")
        axes.axvline(-float(str(record.settings["slice_margin"])), color="tab:red", ls=":")
        axes.set(
            title="Challenger minus champion, 95 % intervals (dotted: the slice margin)",
            xlabel="difference in accuracy",
        )
