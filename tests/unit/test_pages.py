"""README and the pages: every link leads somewhere, every page is listed, and what they say of
options, errors and figures is complete.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import rqproc
from rqproc import App, Client, errors
from rqproc.cli.docs import TOPICS, page, summary
from rqproc.cli.root import rqproc as root
from rqproc.errors import RqprocError
from rqproc.policy import PolicyOptions
from rqproc.settings import NodeOptions

README = Path(__file__).parents[2] / "README.md"
DOCS = Path(rqproc.__file__).parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = {path: path.read_text("utf-8") for path in (README, *PAGES)}

BASES = {RqprocError, errors.RemoteError}


def prose(path: Path) -> str:
    """A page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", TEXTS[path], flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    found = re.findall(r"\[[^\]]*\]\(([^)]*)\)", prose(path))
    return [link for link in found if not link.startswith("https://")]


def rows(topic: str) -> list[str]:
    return [line for line in page(topic).splitlines() if line.startswith("| ")]


# --- what there is ---


def test_readme_has_at_most_350_lines() -> None:
    assert len(TEXTS[README].splitlines()) <= 350


def test_every_page_is_a_topic_and_every_topic_a_page() -> None:
    assert {path.stem for path in PAGES} == set(TOPICS)
    assert len(TOPICS) == len(set(TOPICS))


def test_readme_lists_every_page_with_its_own_line() -> None:
    listed = re.findall(r"^\| \[([\w-]+)\]\(rqproc/docs/\1\.md\) \| (.*) \|$", TEXTS[README], re.M)
    assert listed == [(topic, summary(page(topic))) for topic in TOPICS]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_its_title_and_one_short_line(topic: str) -> None:
    title, line, _ = page(topic).split("\n\n", 2)
    assert re.fullmatch(r"# \S.*", title)
    assert re.fullmatch(r"[A-Z][^\n]{20,66}\.", line)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_can_be_written_in_latin_1(topic: str) -> None:
    """So a terminal, or a pipe, that has no more than that leaves nothing out."""
    assert page(topic).encode("latin-1")


# --- links ---


def meant(folder: Path, name: str) -> Path:
    """The file that a name in a text means; the package's are where it is installed."""
    return DOCS.parents[1] / name if name.startswith("rqproc/") else (folder / name).resolve()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = meant(path.parent, name) if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_links_to_pages_alone_since_they_are_installed_without_the_rest(path: Path) -> None:
    assert {link.partition("#")[0] for link in links(path)} <= {"", *(f"{t}.md" for t in TOPICS)}


def test_readme_has_links() -> None:
    """The tests above read them."""
    assert {"#pages", "rqproc/docs/python.md#errors"} <= set(links(README))
    assert "four-consoles" in anchors(README)


def test_every_file_that_is_named_exists() -> None:
    for path, text in TEXTS.items():
        for name in re.findall(r"\b(?:tests|\.ci|rqproc/docs)/[\w/]+\.(?:py|md)\b", text):
            assert meant(README.parent, name).is_file(), f"{path.name}: {name}"


# --- examples ---


def shown() -> Iterator[tuple[str, str]]:
    for path, text in TEXTS.items():
        for code in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S):
            yield path.stem, code


@pytest.mark.parametrize(("name", "code"), list(shown()), ids=lambda value: value[:12])
def test_what_is_shown_in_python_is_python_and_imports_what_there_is(name: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "rqproc":
            assert {alias.name for alias in node.names} <= set(rqproc.__all__)


# --- completeness ---


def commands(command: click.Command, path: str = "rqproc") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), name)
        assert found
        yield from commands(found, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(commands(root)), ids=lambda value: str(value))
def test_every_command_is_told_with_its_options(path: str, command: click.Command) -> None:
    told = [row for row in rows("cli") if re.search(rf"`{path}[` ]", row)]
    assert len(told) == 1
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.name in ("url", "namespace") or f"`{option.opts[0]}" in told[0]


def tree(error: type[RqprocError]) -> Iterator[type[RqprocError]]:
    yield error
    for derived in error.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from tree(derived)


@pytest.mark.parametrize("error", sorted(set(tree(RqprocError)) - BASES, key=str))
def test_every_error_is_told_with_its_exit_code(error: type[RqprocError]) -> None:
    told = [row for row in rows("python") if f"`{error.__name__}`" in row]
    assert any(row.endswith(f" {error.exit_code} |") for row in told)


def test_every_option_of_a_resource_and_of_a_client_is_told() -> None:
    taken = {*inspect.signature(App.resource).parameters, *inspect.signature(Client).parameters}
    taken |= PolicyOptions.__annotations__.keys()
    told = "\n".join(rows("python"))
    # What an App gives its own client, and the options of a policy, which are told one by one.
    for name in taken - {"self", "nearby", "policy"}:
        assert f"| `{name}` |" in told


@pytest.mark.parametrize(
    "kind", [Client, App, rqproc.AsyncClient, rqproc.Resource, rqproc.Stateful]
)
def test_every_method_is_told(kind: type) -> None:
    methods = [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]
    aside = {"namespace", "server", "served_by", "path", "is_async", "on_lost", "resource"}
    aside |= {"unique_name", "asked", "lane", "member", "members"}  # for those who serve it
    aside |= {"idle_s", "kind"}
    for name in set(methods) - aside:
        assert re.search(rf"[.`]{name}[(`]", page("python")), name


def test_every_setting_of_a_node_inside_a_program_is_told() -> None:
    assert not [name for name in NodeOptions.__annotations__ if name not in page("in-process")]


def test_every_row_of_the_bench_is_told_in_its_order() -> None:
    listed = CliRunner().invoke(root, ["bench", "--list"]).stdout
    rows_of_bench = [line.split()[0] for line in listed.splitlines()]
    assert re.findall(r"`--rows ([\w-]+)` \|$", page("speed"), flags=re.M) == rows_of_bench
