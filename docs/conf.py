"""The site that `scripts/docs` builds from these pages."""

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
release = PROJECT["version"]
html_title = f"{project} {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 4  # Links such as scaling.md#moving work here as they do on GitHub.
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"
pygments_style = "default"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_show_copyright = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-sidebar-link-text--top-level": "var(--color-foreground-primary)"},
    "dark_css_variables": {"color-sidebar-link-text--top-level": "var(--color-foreground-primary)"},
}
html_static_path = ["_static"]
html_css_files = ["site.css"]


def link_to_the_repository(_app: Sphinx, _document: str, source: list[str]) -> None:
    """What lies beside docs/ is not on the site, so links to it lead to the repository."""
    source[0] = source[0].replace("](../", f"]({REPOSITORY}/blob/main/")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_to_the_repository)
