"""docs/architecture.md agrees with the code: its pictures are generated, and the modules that it names exist."""

from __future__ import annotations

import ast
import re

import pytest

from mcp_seedream.generation.attempt_store import State
from tests.docs.test_project import MODULES
from tools import architecture
from tools.architecture import CALL, ROOT, Step

PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = {name.partition(".")[0] for name in MODULES if "." in name}


def test_the_call_goes_as_drawn() -> None:
    """Each step's modules exist, its caller imports its callee, and uses what the step names."""
    assert architecture.faults(CALL) == []
    assert (CALL[0].caller, CALL[-1].callee) == ("client", "client")
    reached = {"client"}
    for step in CALL:
        assert step.caller in reached, "an arrow begins where the call has not been yet"
        reached.add(step.callee)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (Step("server.tools", "server.nothing", "one", ""), "no module server.nothing"),
        (Step("server.tools", "upstream.client", "submit", ""), "not imported"),
        (Step("server.tools", "server.results", "two", ""), "not defined"),
        (Step("server.tools", "catalog.arguments", "is_waited_for", ""), "not used"),
        (Step("server.tools", "AceDataCloud", "/seedream/images", ""), "not used"),
    ],
)
def test_a_wrong_step_is_found(step: Step, fault: str) -> None:
    """Whatever is wrong with it."""
    assert any(fault in found for found in architecture.faults([step]))


def test_imports_are_those_of_the_code() -> None:
    """Every arrow is an import, and every import follows from arrows."""
    imported = architecture.imports_of_packages()
    arrows = set(re.findall(r"^ +(\w+) --> (\w+)$", architecture.imports(), re.MULTILINE))
    assert {(one, other) for one, others in imported.items() for other in others} >= arrows
    reached = {name: {other for one, other in arrows if one == name} for name in imported}
    for _ in imported:
        reached = {name: others.union(*(reached[other] for other in others)) for name, others in reached.items()}
    assert all(others <= reached[name] for name, others in imported.items() if name != "__main__")


def test_the_states_of_an_attempt() -> None:
    """A table of other states than the code's is refused; the picture has every state, a start and an end."""
    drawn = architecture.states()
    assert set(re.findall(r"\b[A-Z]{4,}\b", drawn)) == set(State.__members__)
    assert "[*] --> QUEUED" in drawn
    assert drawn.count("--> [*]") == 2
    assert architecture.transitions("| from | to | when |\n|--|--|--|\n| | A | x |\n  | A, B | C | y; z |\n") == [
        ("", "A", "x"),
        ("A", "C", "y; z"),
        ("B", "C", "y; z"),
    ]


def named(text: str) -> list[str]:
    """The modules, functions and classes in a text, such as `server.results` or `oauth.store.Store`."""
    return [name for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text) if name.partition(".")[0] in PACKAGES]


def exists(name: str) -> bool:
    """Whether there is a module of this name, or one that defines or imports it."""
    package, module, *names = name.split(".")
    path = MODULES.get(f"{package}.{module}")
    if path is None:
        return False
    body: list[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for each in names:
        found = [node for node in body if each in _names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [each.asname or each.name for each in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def test_packages_name_their_front_door() -> None:
    """The modules, functions and classes in the docstrings of packages exist."""
    for name, path in MODULES.items():
        package, _, module = name.partition(".")
        if module == "__init__":
            said = [each for each in re.findall(r"`([a-z_]+\.\w+)`", path.read_text("utf-8")) if ".toml" not in each]
            places = (package, *sorted(PACKAGES - {package}))
            assert [each for each in said if not any(exists(f"{place}.{each}") for place in places)] == []


def test_named_modules_exist() -> None:
    """In the text and its tables."""
    names = named(PAGE.read_text("utf-8"))
    assert len(names) > 20
    assert [name for name in names if not exists(name)] == []
    assert not exists("server.nothing")
    assert not exists("server.results.nothing")
    assert exists("server.descriptions.TOOLS")
    assert exists("server.tools.ImageTools.definitions")
