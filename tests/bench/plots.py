"""Two kinds of plots as SVG, without a library: bars for rows beside each other, curves for what grows with something.

Both take the lines of a section (`recording.py`). Colours are readable on white and on dark pages.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308", "#14b8a6", "#ec4899", "#78716c")
_TEXT = "#6b7280"
_WIDTH = 760


def number(value: float) -> str:
    """Three digits, thousands apart; a whole number as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def middle(value: Any) -> float:
    """A value, or the median of a spread."""
    return float(value["median"] if isinstance(value, Mapping) else value)


@dataclass(frozen=True)
class Bars:
    """A bar for each row; the length is the column `value`, the least and the most of its runs a thin line.

    by: row names that make a group's caption, the others name the bar. log: a logarithmic scale, from the decade below the least.
    """

    title: str
    value: str
    by: Sequence[str] = ()
    log: bool = False

    def draw(self, lines: Sequence[Mapping[str, Any]]) -> str:
        """The SVG."""
        found = [line for line in lines if self.value in line["values"]]
        values = [line["values"][self.value] for line in found]
        most = max((middle(value) for value in values), default=1.0) or 1.0
        least = min((middle(value) for value in values if middle(value) > 0), default=1.0)
        floor = 10 ** math.floor(math.log10(least)) / 2
        left, room = 230, _WIDTH - 230 - 90

        def at(value: float) -> float:
            if not self.log:
                return left + room * min(value / most, 1.0)
            return left + room * min(max(math.log(max(value, floor) / floor) / math.log(most / floor), 0.0), 1.0)

        parts, y, group = [_text(0, 16, self.title + (" (logarithmic)" if self.log else ""), weight="bold")], 34, None
        colours: dict[str, str] = {}
        for line, value in zip(found, values, strict=True):
            caption = ", ".join(f"{name} {line['row'][name]}" for name in self.by if name in line["row"])
            if caption != group and caption:
                y += 6
                parts.append(_text(0, y + 10, caption))
                y += 18
            group = caption
            name = ", ".join(str(part) for key, part in line["row"].items() if key not in self.by)
            colour = colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
            end = at(middle(value))
            parts.append(_text(left - 8, y + 11, name, anchor="end"))
            parts.append(f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="14" fill="{colour}"/>')
            if isinstance(value, Mapping):
                low, high = at(value["least"]), at(value["most"])
                parts.append(f'<path d="M{low:.1f} {y + 7}H{high:.1f}" stroke="{_TEXT}" stroke-width="1.5"/>')
                end = max(end, high)
            parts.append(_text(end + 6, y + 11, number(middle(value))))
            y += 18
        return _svg(y + 6, parts)


@dataclass(frozen=True)
class Curves:
    """A curve for each `by`: the column `value` over the row's number `x`, both on logarithmic scales."""

    title: str
    x: str
    value: str
    by: Sequence[str] = ()

    def draw(self, lines: Sequence[Mapping[str, Any]]) -> str:
        """The SVG."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for line in lines:
            if self.value in line["values"] and self.x in line["row"]:
                name = ", ".join(str(line["row"][key]) for key in self.by if key in line["row"])
                point = (float(line["row"][self.x]), middle(line["values"][self.value]))
                if min(point) > 0:
                    curves.setdefault(name, []).append(point)
        points = [point for curve in curves.values() for point in curve] or [(1.0, 1.0)]
        left, top, bottom, right = 70, 34, 320, _WIDTH - 20
        across = _scale([x for x, _ in points], left, right)
        up = _scale([y for _, y in points], bottom, top)
        parts = [_text(0, 16, f"{self.title} ({self.value} over {self.x}, logarithmic)", weight="bold")]
        parts.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="{_TEXT}"/>')
        for x in sorted({x for x, _ in points}):
            parts += [_text(across(x), bottom + 16, f"{x:,g}", anchor="middle")]
        low, high = min(y for _, y in points), max(y for _, y in points)
        for y in sorted({low, math.sqrt(low * high), high}):
            parts.append(_text(left - 6, up(y) + 4, number(y), anchor="end"))
            parts.append(f'<path d="M{left} {up(y):.1f}H{right}" stroke="{_TEXT}" stroke-opacity="0.2"/>')
        for i, (name, curve) in enumerate(curves.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in sorted(curve))
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in curve]
            parts.append(f'<rect x="{left}" y="{bottom + 30 + 18 * i}" width="14" height="4" fill="{colour}"/>')
            parts.append(_text(left + 20, bottom + 36 + 18 * i, name))
        return _svg(bottom + 44 + 18 * len(curves), parts)


def _scale(values: Sequence[float], start: float, end: float) -> Any:
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: start + (end - start) * ((math.log(value) - low) / (high - low) if high > low else 0.5)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    style = f'font-family="sans-serif" font-size="12" fill="{_TEXT}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" {style}>\n{body}\n</svg>\n'
