"""The report's plots: matplotlib to inline SVG that takes its colours and fonts from the page around it.

Words in a plot are given in both languages. matplotlib sees a placeholder, so that no text from data meets its mathtext and
Korean needs no font here; the page's language switch shows one of the two.
"""

import html
import io
import math
import re
from collections.abc import Sequence

from kmlite import results
from kmlite.results import Both
from kmlite.sharing.report.words import SUBJECTS, both

TEXT, GRID = "#010101", "#010102"  # stand for the page's colours until `finished` names them
SERIES = ("#010111", "#010112", "#010113", "#010114")
COLOURS = {TEXT: "currentColor", GRID: "var(--line)"} | {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)}
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
POINTS = 600  # of a loss curve: a longer one is drawn as the means of its neighbours
WIDTH, HEIGHT = 5.4, 3.0  # inches of 72 units; the page stretches it

Points = Sequence[tuple[float, float]]


class Words:
    """The texts of one figure, by their placeholder."""

    def __init__(self) -> None:
        self.listed: list[Both] = []

    def __call__(self, english: str, korean: str | None = None) -> str:
        self.listed.append((english, english if korean is None else korean))
        return f"@{len(self.listed) - 1}@"


def canvas(name: str, height: float = HEIGHT):
    """(figure, axes, words) in the page's style; `name` salts the ids, so that two figures of a page share none."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "path.simplify": True})
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = figure.add_axes((0.11, 0.17, 0.86, 0.75), facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=TEXT, length=0, labelsize=9)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes, Words()


def finished(figure, words: Words) -> str:
    """The figure as an <svg> to stand in a page."""
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", svg)  # of groups: nothing points to them, and the next figure has the same
    svg = re.sub(r"<style.*?</style>|font-(size|family): [^;\"]*;? ?| transform=\"rotate\(-0 [^\"]*\"", "", svg, flags=re.DOTALL)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return re.sub(r"@(\d+)@", lambda match: in_both(words.listed[int(match[1])]), svg)


def in_both(words: Both) -> str:
    english, korean = (html.escape(word) for word in words)
    return english if english == korean else f'<tspan class="en">{english}</tspan><tspan class="ko">{korean}</tspan>'


def loss(name: str, training: list[dict]) -> dict | None:
    """The loss of a stage's training runs one behind the other: {"svg", "steps", "first", "last", "watched": the last on held-out data}."""
    trained: list[tuple[float, float]] = []
    watched: list[tuple[float, float]] = []
    begins, start = [], 0
    for part in training:
        begins.append(start)
        for key, line in (("loss", trained), ("eval_loss", watched)):
            line += [(start + row["step"], row[key]) for row in part.get("curve", []) if is_number(row.get(key))]
        start += part.get("steps", 0)
    if not trained:
        return None
    svg = curve(name, [thin(trained), thin(watched)], y=("loss, nats a token", "손실, 토큰당 내트"), breaks=begins[1:])
    last = watched[-1][1] if watched else None
    return {"svg": svg, "steps": start, "first": trained[0][1], "last": trained[-1][1], "watched": last, "runs": len(begins)}


def measured(name: str, found: list[dict], steps: int) -> dict | None:
    """Bits per character while training, where a stage measured them on the way: {"svg", "data": names in the order of the lines}."""
    at = {"before": 0, "extended": 0, "after": steps}
    lines: dict[str, dict[int, float]] = {}
    for one in found:
        if one["measure"] == "bits_per_character":
            step = int(one["when"].split()[1]) if one["when"].startswith("step ") else at.get(one["when"])
            if step is not None:
                lines.setdefault(one["data"], {})[step] = one["value"]  # the extended model's in the base's place
    if not any(one["when"].startswith("step ") for one in found):
        return None
    lines = {data: line for data, line in lines.items() if len(line) > 2}
    svg = curve(name, [sorted(line.items()) for line in lines.values()], y=("bits per character", "글자당 비트"), marked=True)
    return {"svg": svg, "data": [both(results.DATA, data) for data in lines]}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thin(points: Points) -> Points:
    """At most POINTS points: means of neighbours."""
    width = -(-len(points) // POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width or 1)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups] if width > 1 else points


def curve(name: str, lines: Sequence[Points], *, y: Both, breaks: Sequence[int] = (), marked: bool = False) -> str:
    """Lines over training steps, in the order of the series colours.

    Args:
        breaks: steps with an upright line, where a training run began.
        marked: a dot at each point of a line.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes, words = canvas(name)
    for i, points in enumerate(lines[: len(SERIES)]):
        if points:
            marker = MARKERS[i] if marked or len(points) < 3 else None
            axes.plot(*zip(*points, strict=True), color=SERIES[i], linestyle=DASHES[i], linewidth=1.8, marker=marker, ms=4)
    for step in breaks:
        axes.axvline(step, color=TEXT, linewidth=0.8, alpha=0.5)
    axes.set_xlabel(words("optimizer step", "옵티마이저 스텝"), color=TEXT)
    axes.set_title(words(*y), color=TEXT, fontsize=9, loc="left", pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    return finished(figure, words)


def by_loop(found: list[dict], plan: dict) -> dict | None:
    """Accuracy with its interval before, after each loop and of the model handed over: {"svg", "target"}; None without loops."""
    order = sorted(found, key=lambda one: (one["when"] == "after", one["when"] != "before", len(one["when"]), one["when"]))
    points = [one for one in order if not one["how"].get("subject")]
    if len(points) < 2:
        return None
    figure, axes, words = canvas("loops")
    places, parts = range(len(points)), [as_score(one) for one in points]
    labels = [both({"before": ("before", "학습 전"), "after": ("final", "최종")}, one["when"].removeprefix("loop ")) for one in points]
    bars = {"color": SERIES[0], "marker": "o", "ms": 5, "linewidth": 1.6, "elinewidth": 1.2, "capsize": 3}
    axes.errorbar(places, [part["accuracy"] for part in parts], yerr=whiskers(parts), **bars)
    axes.axhline(20, color=TEXT, linewidth=0.9, linestyle=":")
    target = plan.get("settings", {}).get("target")
    if target is not None:
        axes.axhline(target, color=SERIES[1], linewidth=1.2, linestyle="--")
    axes.set_xticks(places, [words(*label) for label in labels])
    axes.set_xlim(-0.4, len(labels) - 0.6)
    axes.set_ylim(0, 100)
    axes.set_xlabel(words("loop", "반복"), color=TEXT)
    axes.set_title(words("% right", "정확도 %"), color=TEXT, fontsize=9, loc="left", pad=6)
    return {"svg": finished(figure, words), "target": target}


def by_subject(found: list[dict]) -> dict | None:
    """Accuracy by subject for each split and moment it was measured at: {"svg", "series": names in the order of the marks}."""
    moments: dict[str, Both] = {"before": ("before", "전"), "after": ("after", "뒤")}
    series: dict[tuple, dict[str, dict]] = {}
    for one in found:
        if one["data"] in ("dev", "test") and one["when"] in moments:
            key = (one["data"], one["when"], one["stage"])
            series.setdefault(key, {}).setdefault(one["how"].get("subject", ""), as_score(one))
    series = {key: parts for key, parts in series.items() if len(parts) > 1}
    if not series:
        return None
    shown = list(series.items())[: len(SERIES)]
    names = list(dict.fromkeys(name for _, parts in shown for name in parts))
    rows = [(both(SUBJECTS, name) if name else ("all", "전체"), [parts.get(name) for _, parts in shown]) for name in names]
    labels = [tuple(f"{data} {word}" for word in moments[when]) for (data, when, _), _ in shown]
    return {"svg": by_name("subjects", rows, len(shown), left=0.2), "series": labels}


def as_score(one: dict) -> dict:
    return {"accuracy": one["value"], "interval": [one["low"], one["high"]]}


def whiskers(parts: list[dict]) -> tuple[list[float], list[float]]:
    low = [max(0.0, part["accuracy"] - part["interval"][0]) for part in parts]
    return low, [max(0.0, part["interval"][1] - part["accuracy"]) for part in parts]


def by_name(name: str, rows: list[tuple[Both, list[dict | None]]], series: int = 1, left: float = 0.3) -> str:
    """Accuracy in percent, a line for each row and in it a mark with its interval for each of the series.

    A part without "interval" (a published figure) is a bare mark in the text's colour.
    """
    height = 0.75 + len(rows) * max(0.24, 0.13 * series + 0.08)
    figure, axes, words = canvas(name, height)
    axes.set_position((left, 0.45 / height, 0.97 - left, 1 - 0.55 / height))
    for i in range(series):
        shift = (i - (series - 1) / 2) * 0.62 / max(1, series)
        found = [(row + shift, part) for row, (_, parts) in enumerate(rows) if (part := parts[i])]
        ours = [(at, part) for at, part in found if "interval" in part]
        if ours:
            axes.errorbar(
                [part["accuracy"] for _, part in ours],
                [at for at, _ in ours],
                xerr=whiskers([part for _, part in ours]),
                color=SERIES[i],
                linestyle="none",
                marker=MARKERS[i],
                ms=5,
                elinewidth=1.4,
                capsize=2.5,
            )
        published = [(at, part) for at, part in found if "interval" not in part]
        if published:
            axes.plot([part["accuracy"] for _, part in published], [at for at, _ in published], "o", color=TEXT, ms=4, alpha=0.65)
    axes.axvline(20, color=TEXT, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [words(*label) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(words("% right", "정확도 %"), color=TEXT)
    return finished(figure, words)
