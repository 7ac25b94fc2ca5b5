"""What a page says first: a few sentences, each with its figures, worst news first."""

import math

ENOUGH_OBJECTS = 10  # of a class or a bin, to say something about it
WORTH_SAYING = 0.005  # of AP


def sentences(own, content: dict, other) -> list[str]:
    """Of an ``Analysis`` and the page's content; ``other`` is what it is compared with, or None."""
    parts = [
        _difference(own, other, content) if other else None,
        _costliest(content["errors"]),
        _classes(content["classes"]),
        _sizes(content["sizes"]),
        _confusion(content["confusions"]),
        _calibration(content["scores"]),
        _threshold(own),
    ]
    return [part for part in parts if part]


def _difference(own, other, content: dict) -> str:
    change = own.metrics["AP"] - other.metrics["AP"]
    rows = [row["difference"] for row in content["classes"] if not math.isnan(row["difference"])]
    better, worse = sum(d > WORTH_SAYING for d in rows), sum(d < -WORTH_SAYING for d in rows)
    images = own.images.f1 - other.images.f1
    counts = f"{int((images > 0).sum())} images are better and {int((images < 0).sum())} worse"
    return (
        f"AP is {own.metrics['AP']:.3f}, {change:+.3f} from {other.name}: {better} classes are better, {worse} worse, "
        f"and {counts}."
    )


def _costliest(rows: list[dict]) -> str | None:
    first, second = sorted(rows, key=lambda row: -row["cost"])[:2]
    if first["cost"] < WORTH_SAYING:
        return None
    then = f" Next come {_plural(second['kind'])}, {second['cost']:.3f}." if second["cost"] >= WORTH_SAYING else ""
    return (
        f"Most AP is lost to {_plural(first['kind'])} ({first['meaning']}): without them AP50 would be "
        f"{first['cost']:.3f} higher.{then}"
    )


def _plural(kind: str) -> str:
    return {"duplicate": "duplicates", "missed": "missed objects", "background": "detections of nothing"}.get(
        kind, "errors of class and place" if kind == "both" else f"errors of {kind}"
    )


def _classes(rows: list[dict]) -> str | None:
    worst, best = _worst_and_best(rows)
    if best["AP"] - worst["AP"] < WORTH_SAYING:
        return None
    return (
        f"The hardest class is {worst['class']} (AP {worst['AP']:.3f}, {worst['objects']} objects), "
        f"the easiest {best['class']} (AP {best['AP']:.3f})."
    )


def _worst_and_best(rows: list[dict]) -> tuple[dict, dict]:
    """By AP, of the rows that have enough objects; twice nothing where none has."""
    known = [row for row in rows if row["objects"] >= ENOUGH_OBJECTS] or [{"AP": 0.0}]
    return min(known, key=lambda row: row["AP"]), max(known, key=lambda row: row["AP"])


def _sizes(rows: list[dict]) -> str | None:
    worst, best = _worst_and_best(rows)
    if best["AP"] - worst["AP"] < WORTH_SAYING:
        return None
    return f"Objects of {worst['label']} pixels have AP {worst['AP']:.3f}, those of {best['label']} pixels {best['AP']:.3f}."


def _confusion(rows: list[dict]) -> str | None:
    if not rows:
        return None
    first = rows[0]
    return f"Taken for another class most often: {first['object']} for {first['taken for']}, {first['times']} times."


def _calibration(scores: dict) -> str | None:
    rows = [row for row in scores["bins"] if row["count"]]
    total = sum(row["count"] for row in rows)
    if not total:
        return None
    promised = sum(row["count"] * row["score"] for row in rows) / total
    kept = sum(row["count"] * row["right"] for row in rows) / total
    direction = "too high" if promised > kept else "too low"
    return (
        f"Scores are {direction} on the whole: they promise that {promised:.0%} of the detections are right, "
        f"and {kept:.0%} are (calibration error {scores['calibration_error']:.3f})."
    )


def _threshold(own) -> str | None:
    of, at = own.scores, round(own.threshold * 100)
    if not of.f1.any():
        return "Nothing was found: no detection matches an object at IoU 0.5."
    return (
        f"The best threshold for showing boxes is conf_threshold={own.threshold:g}: of the boxes {of.precision[at]:.0%} "
        f"are right, of the objects {of.recall[at]:.0%} are found."
    )
