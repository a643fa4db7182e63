"""The report's plots: matplotlib to inline SVG that takes its colours and fonts from the page around it.

Words in a plot are given in both languages. matplotlib sees a placeholder, so that no text from data meets its mathtext and
Korean needs no font here; the page's language switch shows one of the two.
"""

import html
import io
import re
from collections.abc import Sequence

from kmlite import results
from kmlite.results import SUBJECTS, Both, both

TEXT, GRID = "#010101", "#010102"  # stand for the page's colours until `finished` names them
SERIES = ("#010111", "#010112", "#010113", "#010114")
COLOURS = {TEXT: "currentColor", GRID: "var(--line)"} | {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)}
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
POINTS = 600  # of a loss curve at most: of a longer one each second, third …
WIDTH, HEIGHT = 5.4, 3.0  # inches of 72 units; the page stretches it

Points = Sequence[tuple[float, float]]


class Words(list[Both]):
    """The texts of one figure; a call keeps one and gives its placeholder."""

    def __call__(self, english: str, korean: str) -> str:
        self.append((english, korean))
        return f"@{len(self) - 1}@"


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
    return re.sub(r"@(\d+)@", lambda match: in_both(words[int(match[1])]), svg)


def in_both(words: Both) -> str:
    english, korean = (html.escape(word) for word in words)
    return english if english == korean else f'<tspan class="en">{english}</tspan><tspan class="ko">{korean}</tspan>'


# ---- over training steps


def loss(name: str, training: list[dict]) -> dict | None:
    """The loss of a stage's training runs one behind the other: {"svg", "steps", "first", "last", "watched": the last on held-out data}."""
    trained: list[tuple[float, float]] = []
    watched: list[tuple[float, float]] = []
    begins, start = [], 0
    for part in training:
        begins.append(start)
        for key, line in (("loss", trained), ("eval_loss", watched)):
            line += [(start + row["step"], row[key]) for row in part.get("curve", []) if key in row]
        start += part.get("steps", 0)
    if not trained:
        return None
    svg = curve(name, [trained[:: 1 + len(trained) // POINTS], watched], y=("loss, nats a token", "손실, 토큰당 내트"), breaks=begins[1:])
    last = watched[-1][1] if watched else None
    return {"svg": svg, "steps": start, "first": trained[0][1], "last": trained[-1][1], "watched": last, "runs": len(begins)}


def measured(name: str, found: list[dict], steps: int) -> dict | None:
    """Bits per character while training, where a stage measured them on the way: {"svg", "data": names in the order of the lines}."""
    at = {"before": 0, "extended": 0, "after": steps}  # the extended model's in the base's place
    at |= {one["when"]: int(one["when"].split()[1]) for one in found if one["when"].startswith("step ")}
    lines: dict[str, dict[int, float]] = {}
    for one in found:
        if one["measure"] == "bits_per_character" and one["when"] in at:
            lines.setdefault(one["data"], {})[at[one["when"]]] = one["value"]
    lines = {data: line for data, line in lines.items() if len(line) > 2}
    if not lines:
        return None
    svg = curve(name, [sorted(line.items()) for line in lines.values()], y=("bits per character", "글자당 비트"), marked=True)
    return {"svg": svg, "data": [both(results.DATA, data) for data in lines]}


def curve(name: str, lines: Sequence[Points], *, y: Both, breaks: Sequence[int] = (), marked: bool = False) -> str:
    """Lines over training steps, in the order of the series colours; `breaks`: upright lines, where a training run began."""
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


# ---- accuracy


def by_loop(found: list[dict], target: float | None) -> str | None:
    """Accuracy on dev with its interval before, after each loop and of the model handed over; None without loops."""
    points = [one for one in found if (one["measure"], one["data"]) == ("accuracy", "dev") and not results.part_of(one["how"])]
    points.sort(key=lambda one: (one["when"] == "after", one["when"] != "before", len(one["when"]), one["when"]))
    if len(points) < 2:
        return None
    figure, axes, words = canvas("loops")
    labels = [both({"before": ("before", "학습 전"), "after": ("final", "최종")}, one["when"].removeprefix("loop ")) for one in points]
    bars = {"color": SERIES[0], "marker": "o", "ms": 5, "linewidth": 1.6, "elinewidth": 1.2, "capsize": 3}
    axes.errorbar(range(len(points)), [one["value"] for one in points], yerr=whiskers(points), **bars)
    axes.axhline(20, color=TEXT, linewidth=0.9, linestyle=":")
    if target is not None:
        axes.axhline(target, color=SERIES[1], linewidth=1.2, linestyle="--")
    axes.set_xticks(range(len(points)), [words(*label) for label in labels])
    axes.set_xlim(-0.4, len(labels) - 0.6)
    axes.set_ylim(-2, 102)
    axes.set_xlabel(words("loop", "루프"), color=TEXT)
    axes.set_title(words("% right", "정확도 %"), color=TEXT, fontsize=9, loc="left", pad=6)
    return finished(figure, words)


def by_subject(found: list[dict]) -> dict | None:
    """Accuracy by subject for each split and moment it was measured at: {"svg", "series": names in the order of the marks}."""
    moments: dict[str, Both] = {"before": ("before", "전"), "after": ("after", "뒤")}
    series: dict[tuple, dict[str, dict]] = {}
    for one in found:
        if one["measure"] == "accuracy" and one["data"] in ("dev", "test") and one["when"] in moments and "year" not in one["how"]:
            series.setdefault((one["data"], one["when"], one["stage"]), {}).setdefault(one["how"].get("subject", ""), one)
    shown = [(key, parts) for key, parts in series.items() if len(parts) > 1][: len(SERIES)]
    if not shown:
        return None
    names = list(dict.fromkeys(name for _, parts in shown for name in parts))
    height = 0.75 + len(names) * max(0.24, 0.13 * len(shown) + 0.08)
    figure, axes, words = canvas("subjects", height)
    axes.set_position((0.2, 0.45 / height, 0.77, 1 - 0.55 / height))
    for i, (_, parts) in enumerate(shown):
        rows = [row + (i - (len(shown) - 1) / 2) * 0.62 / len(shown) for row, name in enumerate(names) if name in parts]
        marks = [parts[name] for name in names if name in parts]
        bars = {"color": SERIES[i], "linestyle": "none", "marker": MARKERS[i], "ms": 5, "elinewidth": 1.4, "capsize": 2.5}
        axes.errorbar([one["value"] for one in marks], rows, xerr=whiskers(marks), **bars)
    axes.axvline(20, color=TEXT, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(names)), [words(*(both(SUBJECTS, name) if name else ("all", "전체"))) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(words("% right", "정확도 %"), color=TEXT)
    labels = [tuple(f"{data} {word}" for word in moments[when]) for (data, when, _), _ in shown]
    return {"svg": finished(figure, words), "series": labels}


def whiskers(points: list[dict]) -> tuple[list[float], list[float]]:
    return [max(0.0, one["value"] - one["low"]) for one in points], [max(0.0, one["high"] - one["value"]) for one in points]
