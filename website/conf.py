"""Settings of Sphinx; https://www.sphinx-doc.org/en/master/usage/configuration.html explains them."""

from __future__ import annotations

from typing import Any

from pygments.lexers.data import JsonLexer
from sphinx.application import Sphinx  # pyright: ignore[reportMissingImports] # in .site

import minicpmv  # registers with transformers, before a documented module imports it
from website.chinese import page_words, register_search

project = "minicpmv-finetune"
html_title = project
copyright = ""
version = release = minicpmv.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # examples of broken JSON are meant
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
exclude_patterns = ["files/**"]
highlight_language = "none"  # most blocks without a language are what a command printed

html_theme = "pydata_sphinx_theme"
html_static_path = ["assets"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_search_language = "en-and-zh"
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "search_bar_text": "Search",
    "show_version_warning_banner": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
html_context = {"default_mode": "auto"}
templates_path = ["templates"]


def setup(app: Sphinx) -> None:
    """Register what is not a setting."""
    app.add_lexer("jsonl", JsonLexer)
    app.connect("html-page-context", _name_language)
    app.connect("autodoc-process-docstring", _keep_sentence, priority=400)  # before napoleon's, at 500
    register_search()


def _keep_sentence(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Break an attribute's first line behind its colon: napoleon would take what stands before for the type."""
    if what in ("attribute", "property") and lines:
        head, _, rest = lines[0].partition(": ")
        lines[:1] = [f"{head}:", rest] if rest else [head]


def _name_language(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Tell browsers and screen readers which pages are Chinese, and translate what stands around them."""
    if pagename.startswith("zh/"):
        context.update(page_words(), language="zh-CN")
