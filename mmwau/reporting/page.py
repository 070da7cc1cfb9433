"""Tables for the terminal, and pages with tables and pictures that open from one file."""

import io
import shlex
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from matplotlib.figure import Figure
from rich.table import Table as RichTable
from rich.text import Text

from mmwau.files.whole import write_whole
from mmwau.version import __version__

PAGE = Environment(autoescape=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px;
         margin: 2em auto; padding: 0 1.5em; }
  h1 { font-size: 1.6em; margin-bottom: 0.2em; }
  h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
  p { max-width: 75ch; }
  code { background: #f4f4f4; padding: 0.1em 0.3em; overflow-wrap: anywhere; }
  img { max-width: 100%; height: auto; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; margin: 1em 0; font-size: 0.9em;
          font-variant-numeric: tabular-nums; }
  caption { text-align: left; font-weight: 600; padding-bottom: 0.4em; }
  th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #eee; }
  th:first-child, td:first-child { text-align: left; white-space: pre-wrap; }
  thead th { border-bottom: 2px solid #999; vertical-align: bottom; }
  tbody tr:hover { background: #f6f9fc; }
  footer { margin-top: 3em; color: #777; font-size: 0.85em; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.heading }}</h2>
{% for part in section.parts %}
{% if part is string %}<p>{{ part }}</p>
{% elif part.rows is defined %}<div class="wide"><table>
{% if part.title %}<caption>{{ part.title }}</caption>{% endif %}
<thead><tr>{% for column in part.columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% else %}<p style="max-width: none">
<img alt="{{ section.heading }}" width="{{ (part.get_figwidth() * 90)|int }}"
     src="data:image/png;base64,{{ base64(part) }}"></p>
{% endif %}
{% endfor %}
</section>
{% endfor %}
<footer>mmwau {{ version }} · <code>{{ command }}</code></footer>
</body>
</html>
""")


@dataclass(frozen=True)
class Table:
    """A table of strings; the first column names what a row is about.

    Args:
        title: What it shows; ``''`` for none.
        columns: Headings.
        rows: A string for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_terminal(self) -> RichTable:
        """The same table for a rich console."""
        title = Text(self.title, 'table.title') if self.title else None
        table = RichTable(title=title, title_justify='left')
        for index, column in enumerate(self.columns):
            table.add_column(Text(column), justify='right' if index else 'left', overflow='fold')
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def to_markdown(self) -> str:
        """The same table for a Markdown file, its title above it."""
        lines = [self.columns, ['---'] + ['---:'] * (len(self.columns) - 1), *self.rows]
        text = '\n'.join(
            f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines
        )
        return f'**{self.title}**\n\n{text}\n' if self.title else f'{text}\n'


Part = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, and below it paragraphs, tables and pictures in their order."""

    heading: str
    parts: Sequence[Part]


def write_results(
    folder: Path,
    name: str,
    title: str,
    sections: Sequence[Section],
    pictures: Mapping[str, Figure],
    content: bytes | None = None,
) -> list[str]:
    """Write what a tool found: pictures, a page that needs no other file, and a JSON file.

    Args:
        folder: Where to write.
        name: Name of the page and of the JSON file, without suffix.
        title: Title of the page; at its foot stands the command that made it.
        sections: What it shows.
        pictures: By file name.
        content: Of the JSON file; None where the tool has written it before.

    Returns:
        Names of the files.

    Raises:
        OSError: If one can't be written.
    """
    if content is not None:
        write_whole(content, folder / f'{name}.json')
    for file, figure in pictures.items():
        write_whole(png(figure), folder / file)
    page = PAGE.render(
        title=title,
        sections=sections,
        # Twice as many pixels as it is shown with, for screens that have them.
        base64=lambda figure: b64encode(png(figure, dpi=180)).decode(),
        command=shlex.join(['python', *sys.argv]),
        version=__version__,
    )
    write_whole(page.encode(), folder / f'{name}.html')
    return [f'{name}.html', *pictures, f'{name}.json']


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=dpi)
    return content.getvalue()
