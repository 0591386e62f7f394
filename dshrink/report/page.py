"""The page itself: its sections, its style, its script, and Bokeh's, in one file.

The page names no address, and forbids itself all requests by its content security policy. What
comes from files is escaped: texts by the template, the data of figures as JSON without angle
brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from bokeh.embed import json_item
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dshrink.report.content import Section, drawings
from dshrink.report.folder import Contents
from dshrink.report.sections import answer, blocks, further, layers, made, measured, paper, plans
from dshrink.version import __version__


def page_of(contents: Contents, *, now: datetime | None = None) -> str:
    """The HTML of a folder's page."""
    found = (
        answer.section(contents),
        measured.section(contents),
        measured.front_section(contents),
        blocks.kept_section(contents),
        blocks.section(contents),
        blocks.predictions_section(contents),
        layers.section(contents),
        plans.section(contents),
        plans.merging_section(contents),
        plans.frontier_section(contents),
        paper.section(contents),
        made.section(contents),
        further.next_section(contents),
        further.files_section(contents),
    )
    sections = [section for section in found if section is not None]
    made_at = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=answer.title(contents),
            folder=str(contents.root),
            made=made_at,
            version=__version__,
            sections=sections,
            unreadable=contents.unreadable,
            figures=_figures(sections),
            bokeh=Markup(_bokeh()) if any(drawings(sections)) else "",
        )
    )


def _figures(sections: Sequence[Section]) -> Markup:
    """The figures as JSON for a script element, by the ids of their places."""
    items = [json_item(drawing.model, f"figure-{drawing.name}") for drawing in drawings(sections)]
    text = json.dumps(items).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)


def _bokeh() -> str:
    return str(Resources(mode="inline", components=["bokeh"]).render_js())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dshrink.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset
    environment.filters["coded"] = _coded
    return environment


def _coded(text: str) -> Markup:
    """The text, escaped, with what is between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _asset(name: str) -> Markup:
    """A file of the templates as it is: style and script are ours."""
    loader = PackageLoader("dshrink.report")
    return Markup(loader.get_source(_environment(), name)[0])
