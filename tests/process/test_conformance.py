r"""The official conformance suite, against the server as a process: the scenarios of two revisions, and sign-in.

Each revision's are run twice: against the hosted server with the suite's own tools, prompts and resources
(conformance/fixture.py), and against the command as it is, which has to pass those that need none of these.
What each check comes to stands in the folder `conformance`, with the reason for each that is not passed. By hand, with
the server that the fixture's docstring tells how to start, where the suite is installed (`npm install`, and the name
and version in tests/support/node.py):

    CONFORMANCE_TOKEN=any node --import ./tests/process/conformance/authorized.mjs \
        node_modules/@modelcontextprotocol/conformance/dist/index.js server \
        --url http://127.0.0.1:8000/mcp --requirements 2026-07-28 --output-dir results
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml
from anyio.abc import Process

from tests.conftest import TOKEN
from tests.support.dance import SECRET, Person, Raw
from tests.support.node import CONFORMANCE, node, npm_install, with_node
from tests.support.services import free_port, healthy, replica_running, started

HERE = Path(__file__).parent / "conformance"
SUITE = Path("node_modules", "@modelcontextprotocol", "conformance")
REVISIONS = ("2025-11-25", "2026-07-28")
STATUSES = ("INFO", "SUCCESS", "SKIPPED", "WARNING", "FAILURE")
"""From one that says nothing to the worst; a check may be made several times, and counts as the worst of them."""
WIRE = "wire-schema-valid"
"""Beside the scenario's own checks: it passes whatever the scenario came to."""


@dataclass
class Findings:
    """What was passed, by scenario, and what was not, by `scenario:check`, or `scenario` where nothing was checked."""

    passed: dict[str, set[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, scenarios: Sequence[str]) -> Findings:
        """Those of some scenarios alone."""
        return Findings(
            {scenario: checks for scenario, checks in self.passed.items() if scenario in scenarios},
            {name: why for name, why in self.failed.items() if name.partition(":")[0] in scenarios},
        )

    def against(self, expected: Findings) -> dict[str, list[str]]:
        """What is not as it was expected; empty, if all is."""
        differing = {
            "fails": [f"{name}: {why}" for name, why in self.failed.items() if name not in expected.failed],
            "no longer fails": sorted(expected.failed.keys() - self.failed.keys()),
            "no longer passes": sorted(_pairs(expected) - _pairs(self)),
            "passes, and is not listed": sorted(_pairs(self) - _pairs(expected)),
        }
        return {what: names for what, names in differing.items() if names}


def _pairs(findings: Findings) -> set[str]:
    return {f"{scenario}:{check}" for scenario, checks in findings.passed.items() for check in checks}


def found(folder: Path, scenarios: Sequence[str]) -> Findings:
    """What the suite wrote down of these scenarios."""
    findings = Findings()
    for scenario in scenarios:
        checks: list[dict[str, Any]] = []
        for path in folder.glob(f"*-{scenario}-????-??-??T*/checks.json"):
            checks += json.loads(path.read_text("utf-8"))
        worst: dict[str, dict[str, Any]] = {}
        for check in sorted(checks, key=lambda check: STATUSES.index(check["status"])):
            worst[check["id"]] = check
        said = {id_: check for id_, check in worst.items() if check["status"] != "INFO"}
        if not said.keys() - {WIRE}:
            findings.failed[scenario] = "nothing was checked"
        if passed := {id_ for id_, check in said.items() if check["status"] == "SUCCESS"}:
            findings.passed[scenario] = passed
        for id_ in said.keys() - passed:
            findings.failed[f"{scenario}:{id_}"] = f"{said[id_]['status']}: {said[id_].get('errorMessage')}"
    return findings


def expected(name: str) -> tuple[Findings, list[str]]:
    """What is known to come of it, and which scenarios need nothing of the fixture's."""
    known = yaml.safe_load((HERE / f"{name}.yml").read_text("utf-8"))
    reasons = {check: group["why"] for group in known["not passed"] for check in group["checks"]}
    assert len(reasons) == sum(len(group["checks"]) for group in known["not passed"])
    assert all(reasons.values())
    return Findings({name: set(ids) for name, ids in known["passed"].items()}, reasons), known.get("command", [])


def run(address: str, revision: str, folder: Path) -> Findings:
    """The scenarios of one revision: those that it requires, and those that are run along with them."""
    suite = npm_install([CONFORMANCE]) / SUITE
    done = subprocess.run(
        [
            *(str(node()[0]), "--import", (HERE / "authorized.mjs").as_uri(), str(suite / "dist" / "index.js")),
            *("server", "--url", f"{address}/mcp", "--requirements", revision, "--output-dir", str(folder)),
        ],
        env=with_node(CONFORMANCE_TOKEN=TOKEN),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    asked = yaml.safe_load((suite / "requirements" / f"{revision}.yaml").read_text("utf-8"))
    along = [each["scenario"] for each in asked["not_scored"] if each["leg"] == "server"]
    return found(folder, [*asked["server"], *along])


def agree(findings: Findings, known: Findings) -> None:
    differing = findings.against(known)
    assert not differing, yaml.safe_dump(differing, width=1000)


@pytest.fixture(scope="module")
def furnished() -> Iterator[str]:
    """The address of the hosted server with what the suite needs."""
    npm_install([CONFORMANCE])  # before anything is started for it
    port = free_port()
    with started([sys.executable, str(HERE / "fixture.py"), str(port)], lambda: healthy(port)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def command() -> Iterator[str]:
    """The address of the server as the command line starts it."""
    npm_install([CONFORMANCE])
    port = free_port()
    with replica_running(port, "--sandbox"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_scenario(furnished: str, revision: str, tmp_path: Path) -> None:
    """No check comes to anything else than what is known of it."""
    known, _ = expected(revision)
    agree(run(furnished, revision, tmp_path), known)


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_command_itself(command: str, revision: str, tmp_path: Path) -> None:
    """Scenarios that need no tools of the suite's."""
    known, scenarios = expected(revision)
    agree(run(command, revision, tmp_path).of(scenarios), known.of(scenarios))


async def _named(process: Process, pattern: str) -> str:
    """What a process says that fits the pattern."""
    said = ""
    assert process.stdout is not None
    async for part in process.stdout:
        said += part.decode()
        if named := re.search(pattern, said, re.MULTILINE):
            return named[0]
    raise AssertionError(said)


@pytest.mark.anyio
async def test_signing_in(tmp_path: Path) -> None:
    """The authorization server's metadata, and a code that somebody agrees to in between, against the sandbox."""
    program = npm_install([CONFORMANCE]) / SUITE / "dist" / "index.js"
    port, own = free_port(), free_port()
    address, callback = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{own}/callback"
    with replica_running(port, "--sandbox", SEEDREAM_PUBLIC_URL=address, SEEDREAM_SEAL_KEYS=SECRET):
        async with httpx.AsyncClient(timeout=30) as web:
            client = Raw(address, web)
            await client.register(redirect_uris=[callback])
            options = ["--url", address, "--client-id", client.id, "--resource", f"{address}/mcp", "--port", str(own)]
            suite = [str(node()[0]), str(program), "authorization", *options, "--output-dir", str(tmp_path)]
            with anyio.fail_after(60):
                async with await anyio.open_process(suite, env=with_node(), stderr=None) as process:
                    url = await _named(process, rf"^{address}/authorize\S+(?=\n)")
                    assert (await web.get(await Person().sign_in(url))).status_code == 200
                    await process.wait()
    known, _ = expected("authorization")
    agree(found(tmp_path, ["authorization-server-metadata-endpoint", "authorization-code-grant"]), known)


def test_what_counts_as_passed(tmp_path: Path) -> None:
    """The worst of a check's results; a scenario that says nothing has failed; what is expected has to come."""
    made = {
        "twice": [("a", "SUCCESS"), ("a", "WARNING"), ("b", "SUCCESS"), ("c", "SKIPPED"), ("d", "INFO")],
        "silent": [("e", "INFO"), (WIRE, "SUCCESS")],
    }
    for scenario, checks in made.items():
        folder = tmp_path / f"server-{scenario}-2026-01-01T00-00-00"
        folder.mkdir()
        (folder / "checks.json").write_text(json.dumps([{"id": id_, "status": status} for id_, status in checks]))
    findings = found(tmp_path, ["twice", "silent", "absent"])
    assert findings.passed == {"twice": {"b"}, "silent": {WIRE}}
    assert findings.failed.keys() == {"twice:a", "twice:c", "silent", "absent"}
    assert findings.against(findings) == {}
    other = Findings({"twice": {"a"}, "silent": {WIRE}}, {"twice:b": "", "twice:a": "", "silent": "", "absent": ""})
    assert findings.against(other) == {
        "fails": ["twice:c: SKIPPED: None"],
        "no longer fails": ["twice:b"],
        "no longer passes": ["twice:a"],
        "passes, and is not listed": ["twice:b"],
    }
