"""The documentation: generated pages are current, links lead somewhere, install lines name extras that exist."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from dgpo.rules import BUILT_IN

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *ROOT.glob("[er]*/**/README.md")])
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_the_table_of_settings_is_what_the_schema_gives():
    generator = runpy.run_path(str(DOCS / "generate_settings.py"))
    assert (DOCS / "settings.md").read_text() == generator["page"](), "run `python docs/generate_settings.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_of_a_page_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_sites_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = set(re.findall(r"[\w./-]+\.md", navigation))
    assert named == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_install_lines_name_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = TEXT + "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    extras = set(re.findall(r"pip install (?:-e )?'?[\w./{}-]*\[(\w+)\]", sources))
    assert {"trl", "lab", "verl"} <= extras <= set(project["optional-dependencies"])


def test_every_rule_has_a_page_with_its_options():
    titles = {page: page.read_text().splitlines()[0] for page in (DOCS / "rules").glob("*.md")}
    for name in BUILT_IN:
        pages = [page for page, title in titles.items() if re.search(rf"\b{name}\b", title.partition(":")[0])]
        assert len(pages) == 1, name
        for part in ("## Maths", "## Pseudocode", "## Knobs", "## Usage"):
            assert part in pages[0].read_text(), (name, part)


def test_the_api_pages_name_objects_that_exist():
    from importlib import import_module

    for path in re.findall(r"^::: ([\w.]+)$", TEXT, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path


def test_the_tests_that_the_page_on_security_names_exist():
    page = (DOCS / "security.md").read_text()
    rows = [line for line in page.partition("## Fuzzed")[0].splitlines() if re.match(r"\| [A-Z]", line)]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, f"no test holds {row[:60]}"
        for file, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
