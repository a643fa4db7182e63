"""The report's plots: matplotlib to inline SVG that takes its colours and fonts from the page around it.

Words in a plot are given in both languages. matplotlib sees a placeholder, so that no text from data meets its mathtext and
Korean needs no font here; the page's language switch shows one of the two.
"""

import html
import io
import re
from collections.abc import Sequence

from kmlite.sharing.report.words import Both

TEXT, GRID = "#010101", "#010102"  # stand for the page's colours until `finished` names them
SERIES = ("#010111", "#010112", "#010113", "#010114")
COLOURS = {TEXT: "currentColor", GRID: "var(--line)"} | {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)}
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
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


def curve(
    name: str,
    lines: Sequence[Points],
    *,
    y: Both,
    checkpoints: Sequence[int] = (),
    breaks: Sequence[int] = (),
    marked: bool = False,
) -> str:
    """Lines over training steps, in the order of the series colours.

    Args:
        checkpoints: steps marked by a triangle on the axis.
        breaks: steps with an upright line, where a loop began.
        marked: a dot at each point of a line.
    """
    figure, axes, words = canvas(name)
    for i, points in enumerate(lines):
        if points:
            dots = marked or len(points) < 3
            axes.plot(
                *zip(*points, strict=True), color=SERIES[i], linestyle=DASHES[i], linewidth=1.8, marker=MARKERS[i] if dots else None, ms=4
            )
    for step in breaks:
        axes.axvline(step, color=TEXT, linewidth=0.8, alpha=0.5)
    if checkpoints:
        low = [0.025] * len(checkpoints)
        axes.plot(checkpoints, low, "^", color=TEXT, ms=5, transform=axes.get_xaxis_transform(), clip_on=False, alpha=0.7)
    axes.set_xlabel(words("optimizer step", "옵티마이저 스텝"), color=TEXT)
    axes.set_title(words(*y), color=TEXT, fontsize=9, loc="left", pad=6)
    whole_numbers(axes.xaxis)
    return finished(figure, words)


def whole_numbers(axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def by_loop(name: str, labels: list[Both], parts: list[dict | None], target: float | None) -> str:
    """Accuracy in percent with its interval at each point of stage 2, from left to right; the level of guessing below."""
    figure, axes, words = canvas(name)
    places = [(i, part) for i, part in enumerate(parts) if part]
    axes.errorbar(
        [i for i, _ in places],
        [part["accuracy"] for _, part in places],
        yerr=whiskers([part for _, part in places]),
        color=SERIES[0],
        marker="o",
        ms=5,
        linewidth=1.6,
        elinewidth=1.2,
        capsize=3,
    )
    axes.axhline(20, color=TEXT, linewidth=0.9, linestyle=":")
    if target is not None:
        axes.axhline(target, color=SERIES[1], linewidth=1.2, linestyle="--")
    axes.set_xticks(range(len(labels)), [words(*label) for label in labels])
    axes.set_xlim(-0.4, len(labels) - 0.6)
    axes.set_ylim(0, 100)
    axes.set_xlabel(words("loop", "반복"), color=TEXT)
    axes.set_title(words("% right", "정답률 %"), color=TEXT, fontsize=9, loc="left", pad=6)
    return finished(figure, words)


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
    axes.set_xlabel(words("% right", "정답률 %"), color=TEXT)
    return finished(figure, words)
