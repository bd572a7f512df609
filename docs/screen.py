"""Makes a picture of a terminal: from `tmux capture-pane -e -p` on standard input, an SVG on standard output."""

import re
import sys
from html import escape

WIDTH, HEIGHT, MARGIN = 8.4, 18, 12
NAMES = ["#1b1d23", "#e06c75", "#7cc36e", "#d9b44a", "#6796e6", "#c678dd", "#4cb5bd", "#c8ccd4"]
BRIGHT = ["#6b7280", "#ff7b86", "#98e08a", "#f0d06a", "#82aaff", "#dd94f2", "#6fd6de", "#ffffff"]
PLAIN = {"fg": NAMES[7], "bg": None, "bold": False, "swap": False}

# Drawn as a rectangle: how far down it begins, how high it is (in rows), and how wide, if not as the cell.
SHAPES = {block: (1 - (n + 1) / 8, (n + 1) / 8, None) for n, block in enumerate("▁▂▃▄▅▆▇█")}
SHAPES |= {"─": (0.47, 0.06, None), "│": (0, 1, 1)}


def changed(style, codes):
    """The style after an escape sequence's numbers."""
    codes, style = [int(code or 0) for code in codes.split(";")], dict(style)
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = dict(PLAIN)
        elif code in (1, 22):
            style["bold"] = code == 1
        elif code in (7, 27):
            style["swap"] = code == 7
        elif code in (38, 48):
            codes.pop(0)
            number = codes.pop(0)
            style["fg" if code == 38 else "bg"] = (NAMES + BRIGHT)[number] if number < 16 else NAMES[7]
        elif code == 39:
            style["fg"] = PLAIN["fg"]
        elif code == 49:
            style["bg"] = None
        elif 30 <= code <= 37 or 90 <= code <= 97:
            style["fg"] = NAMES[code - 30] if code < 40 else BRIGHT[code - 90]
        elif 40 <= code <= 47 or 100 <= code <= 107:
            style["bg"] = NAMES[code - 40] if code < 50 else BRIGHT[code - 100]
    return style


def drawn(x, y, text, style):
    fg, bg = style["fg"], style["bg"]
    if style["swap"]:
        fg, bg = bg or NAMES[0], fg
    left, top, width = MARGIN + x * WIDTH, MARGIN + y * HEIGHT, len(text) * WIDTH
    if text[0] in SHAPES:
        # The font's own would leave gaps.
        above, height, thickness = SHAPES[text[0]]
        return (
            f'<rect x="{left + (width - thickness if thickness else 0) / 2:.1f}" y="{top + above * HEIGHT:.1f}" '
            f'width="{thickness or width:.1f}" height="{height * HEIGHT:.1f}" fill="{fg}"/>'
        )
    shapes = f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" fill="{bg}"/>' if bg else ""
    if text.strip():
        bold = ' font-weight="bold"' if style["bold"] else ""
        shapes += (
            f'<text x="{left:.1f}" y="{top + 13.5}" fill="{fg}" textLength="{width:.1f}"{bold} xml:space="preserve">'
            f"{escape(text)}</text>"
        )
    return shapes


def main():
    shapes, style, columns = [], PLAIN, 0
    rows = sys.stdin.read().rstrip("\n").split("\n")
    for y, row in enumerate(rows):
        x = 0
        for part in re.split(r"(\x1b\[[0-9;]*m)", row):
            if part.startswith("\x1b"):
                style = changed(style, part[2:-1])
                continue
            for text in map("".join, re.findall(r"([▁-█─│])(\1*)|([^▁-█─│]+)", part)):
                shapes.append(drawn(x, y, text, style))
                x += len(text)
        columns = max(columns, x)
    width, height = columns * WIDTH + 2 * MARGIN, len(rows) * HEIGHT + 2 * MARGIN
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'font-family="ui-monospace,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" font-size="14">\n'
        f'<rect width="100%" height="100%" rx="8" fill="{NAMES[0]}"/>\n' + "\n".join(filter(None, shapes)) + "\n</svg>"
    )


main()
