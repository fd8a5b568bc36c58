"""One self-contained HTML page of a results folder: claims, tables and figures, without a link to anything outside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import mistune

from ctsft.report.render import Table
from ctsft.report.rows import Results

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #8884; }
body > table td { white-space: normal; vertical-align: top; }
thead th { position: sticky; top: 0; }
caption { caption-side: top; text-align: left; padding-bottom: .4rem; max-width: 60rem; white-space: normal; }
img { max-width: 100%; background: white; }
"""


def picture(figure: plt.Figure, name: str) -> str:
    """The figure as an <img> that carries its own bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></figure>'


def table_html(table: Table) -> str:
    cells = table.cells.to_html(index=False, border=0, escape=True)
    caption = f"<caption>{mistune.html(table.caption)}</caption>"
    return (
        f'<h3>{html.escape(table.title)}</h3><div class="wide">{cells.replace("<thead>", caption + "<thead>", 1)}</div>'
    )


def page(
    folders: Sequence[Results],
    tables: Mapping[str, Sequence[Table]],
    pictures: Mapping[str, Sequence[str]],
    claims: str,
) -> str:
    """The page as text: each folder's `picture`s and tables, after the claims."""
    names = [results.name for results in folders]
    links = "".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in names)
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ctsft: results</title>',
        # An empty icon: a browser would otherwise ask for one, and report that there is none.
        '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style></head><body><nav>{links}</nav>",
        str(mistune.html(claims)),
    ]
    for results in folders:
        out.append(f'<h1 id="{html.escape(results.name)}">Folder {html.escape(results.name)}</h1>')
        out += pictures[results.name]
        out += [table_html(table) for table in tables[results.name]]
    out.append("</body></html>\n")
    return "\n".join(out)
