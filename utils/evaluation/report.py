"""One self-contained HTML page: figures, tables and images of a run.

write_report(folder / "report.html", "Test", facts, [Section("x.onnx", tables, images)])
"""

import base64
import html
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

from utils.files import atomic_path


class Table(NamedTuple):
    """Cells are text; the first column is left, the others are right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class ReportImage(NamedTuple):
    """A PNG or JPEG file, and what it shows."""

    title: str
    path: Path


class Section(NamedTuple):
    """What belongs to one model, or to the comparison of all."""

    title: str
    figures: Sequence[Tuple[str, str]]  # (name, value), shown large
    tables: Sequence[Table]
    images: Sequence[ReportImage]


STYLE = """
:root { color-scheme: light; --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; --back: #f8fafc; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 12px; overflow-wrap: anywhere; }
h3 { font-size: 14px; margin: 22px 0 8px; color: var(--soft); font-weight: 600; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px; margin-top: 20px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0;
  color: var(--soft); } dd { margin: 0; color: var(--ink); overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 10px; }
.figures div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px;
  min-width: 108px; }
.figures b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; display: block; }
"""


def write_report(
    path: Path, title: str, facts: Sequence[Tuple[str, str]], *, sections: Sequence[Section]
) -> None:
    """Write the page whole. Images are put into it; it needs no other file and no network."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>%s</title><style>%s</style></head><body><main>" % (html.escape(title), STYLE),
        "<h1>%s</h1><dl>" % html.escape(title),
        *("<dt>%s</dt><dd>%s</dd>" % (html.escape(k), html.escape(v)) for k, v in facts),
        "</dl>",
        *(_section(s) for s in sections),
        "</main></body></html>\n",
    ]
    with atomic_path(path) as tmp:
        # a file name need not be UTF-8
        tmp.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")


def _section(section: Section) -> str:
    parts: List[str] = ["<section><h2>%s</h2>" % html.escape(section.title)]
    if section.figures:
        cells = (
            "<div><b>%s</b><span>%s</span></div>" % (html.escape(v), html.escape(k))
            for k, v in section.figures
        )
        parts.append('<div class="figures">%s</div>' % "".join(cells))
    parts += [_table(t) for t in section.tables]
    parts += [_image(p) for p in section.images]
    return "\n".join(parts) + "</section>"


def _table(table: Table) -> str:
    head = "".join("<th>%s</th>" % html.escape(c) for c in table.header)
    body = "".join(
        "<tr>%s</tr>" % "".join("<td>%s</td>" % html.escape(c) for c in row) for row in table.rows
    )
    return '<h3>%s</h3><div class="scroll"><table><tr>%s</tr>%s</table></div>' % (
        html.escape(table.title),
        head,
        body,
    )


def _image(image: ReportImage) -> str:
    kind = "png" if image.path.suffix.lower() == ".png" else "jpeg"
    data = base64.b64encode(image.path.read_bytes()).decode("ascii")
    title = html.escape(image.title)
    return '<h3>%s</h3><img alt="%s" src="data:image/%s;base64,%s">' % (title, title, kind, data)
