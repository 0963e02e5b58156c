"""What this machine brings along: Python and packages, settings, folders, the journal, clients."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib import metadata
from pathlib import Path

import anyio

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.credentials import end_of, stands_for_one
from mcp_seedream.core.env_file import FILE
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, about_passed_over, about_trouble, name_of
from mcp_seedream.core.settings_report import Survey
from mcp_seedream.doctor.findings import Check, Finding, Level, in_background
from mcp_seedream.generation.journal import Journal, usual_path
from mcp_seedream.install.discovery import Installation, Installed

_SHOWN = ("mcp", "pydantic", "httpx", "pillow")
_LONGEST = 60  # characters shown of what somebody wrote
_LITTLE = 200 * 2**20  # bytes
_INSTALL = "Install it again: `pip install --upgrade .` in its folder."


class Machine:
    """The checks of this machine.

    Args:
        found: The settings, usable or not.
    """

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._settings = found.settings

    def checks(self) -> list[Check]:
        """In the order in which they are told."""
        return [
            Check("python", python),
            Check("packages", packages),
            Check("settings", self._settings_found),
            Check("models", self._models),
            Check("output", self._output),
            Check("journal", self._journal),
        ]

    async def _settings_found(self) -> Finding:
        token = name_of("token")  # has a check of its own
        wrong = [f"{name}: {why}{self._as_given(name)}" for name, why in self._found.wrong.items() if name != token]
        if wrong:
            advice = f"Correct it where it is set: under `env` in the client's configuration, or in {FILE}."
            return Finding("problem", "; ".join(wrong), advice)
        if self._found.trouble:
            found = about_trouble(self._found.trouble)
            return Finding("warning", found, "Over HTTP the server does not start with it. Write it in UTF-8.")
        if self._found.passed_over:
            advice = "Set them under `env` in the client's configuration. docs/security.md says more."
            return Finding("warning", about_passed_over(self._found.passed_over, "the server"), advice)
        if self._found.unknown:
            names = [name_of(field) for field in Settings.model_fields]
            near = {name: get_close_matches(name, names, 1, 0.5) for name in self._found.unknown}
            meant = ", ".join(f"{name} (meant: {one[0]}?)" if one else name for name, one in near.items())
            return Finding(
                "warning", f"There is no such setting: {meant}.", "It has no effect. docs/hosting.md lists them all."
            )
        parts = [f"{len(self._found.written)} from the environment"] if self._found.written else []
        if self._found.filed:
            parts.append(f"{len(self._found.filed)} from {Path.cwd() / FILE}")
            advice = f"{FILE} counts only where the server is started in this folder; clients start it elsewhere."
            return Finding("ok", ", ".join(parts), advice)
        return Finding("ok", ", ".join(parts) or "all as they are by default")

    def _as_given(self, name: str) -> str:
        """What is written there, unless it may hold a secret."""
        given = self._found.written.get(name, self._found.filed.get(name, ""))
        secrets = {name_of(field) for field, info in Settings.model_fields.items() if "Secret" in str(info.annotation)}
        return "" if name in secrets or not given or "@" in given else f": {given[:_LONGEST]!r}"

    async def _models(self) -> Finding:
        if wrong := unusable(self._found, "models_file"):
            return wrong
        try:
            table = read_table(self._settings.models_file)
        except ConfigurationError as error:
            return Finding("problem", error.message, f"Correct it, or leave {name_of('models_file')} out.")
        return Finding("ok", f"{len(table.models)} in {self._settings.models_file or 'the built-in table'}")

    async def _output(self) -> Finding:
        if wrong := unusable(self._found, "output_dir") or unusable(self._found, "allowed_dirs"):
            return wrong
        folder, name = self._settings.output_dir, name_of("output_dir")
        for allowed in self._settings.allowed_dirs:
            if not await in_background(allowed.is_dir):
                found = f"{allowed} is no folder, so no picture can be read from it."
                return Finding("warning", found, f"Make it, or correct {name_of('allowed_dirs')}.")
        if folder is None:
            return Finding("ok", f"pictures stay links, which live about a day; {name} would keep them")
        try:
            free = await in_background(partial(room, folder.absolute()))
        except OSError as error:
            found = f"Nothing can be saved to {folder.absolute()}: {error.strerror or error}."
            return Finding("problem", found, f"Name another folder in {name}.")
        if free < _LITTLE:
            found = f"{folder.absolute()}: only {free / 2**20:.0f} MB are free."
            return Finding("warning", found, "Make room: what can't be saved is a link that ends in a day.")
        return Finding("ok", f"{folder.absolute()}, {free / 2**30:,.0f} GB free")

    async def _journal(self) -> Finding:
        if wrong := unusable(self._found, "journal"):
            return wrong
        if self._settings.journal == "off":
            return Finding("ok", "off: a picture whose answer is lost is not found again")
        path = (Path(self._settings.journal) if self._settings.journal else usual_path()).absolute()
        advice = f"Pictures come without it. Move it away, or name another in {name_of('journal')}."
        try:
            if not await in_background(path.exists):
                await in_background(partial(room, path.parent))
                return Finding("ok", f"none yet; it will be {path}")
        except OSError as error:
            return Finding("warning", f"{path} can't be made: {error.strerror or error}.", advice)
        journal = Journal(path)
        tasks = await journal.count()
        journal.close()
        if journal.trouble:
            return Finding("warning", f"{path} can't be used: {journal.trouble}.", advice)
        if tasks is None:
            return Finding(
                "warning", f"{path} is held by another program.", "It is done without for a minute at a time."
            )
        return Finding("ok", f"{path}, {tasks} task{'' if tasks == 1 else 's'}")


def in_clients(found: Installed) -> Finding:
    """Where this server is installed, and whether what stands there can work."""
    again = "Run `mcp-seedream install {}` once more; if a folder was moved, install the package there first."
    bad: list[Finding] = []
    for each in found.entries:
        name = each.client if each.name == "seedream" else f"{each.client} --name {each.name}"
        if not each.there:
            missing = f"{each.title} starts {each.command}, which is not there (see {each.file})."
            bad.append(Finding("problem", missing, again.format(name)))
        elif each.unrelated:
            program = "an unrelated project, the package index's `mcp-seedream`"
            advice = f"{again.format(name)} Revoke a token that it was given."
            bad.append(Finding("problem", f"{each.title} starts {program} (see {each.file}).", advice))
        elif each.own_token and (why := stands_for_one(each.own_token)):
            bad.append(Finding("problem", f"{each.title} has no token: {why} in {each.file}.", again.format(name)))
        elif each.command and not each.sandbox and not each.token:
            bad.append(Finding("warning", f"{each.title} has no token in {each.file}.", again.format(name)))
    for title, why in found.broken.items():
        bad.append(
            Finding("warning", f"The settings of {title}: {why}", f"{title} may ignore such a file: correct it.")
        )
    if bad:
        level: Level = "problem" if any(each.level == "problem" for each in bad) else "warning"
        return Finding(
            level, " ".join(each.found for each in bad), " ".join(dict.fromkeys(each.advice for each in bad))
        )
    told = ", ".join(f"{each.title} ({_kind(each)})" for each in found.entries)
    return Finding("ok", told or "in no settings that `install` knows; `mcp-seedream install CLIENT` puts it there")


def _kind(entry: Installation) -> str:
    if not entry.command:
        return "hosted"
    if entry.sandbox:
        return "with the sandbox"
    return end_of(entry.own_token) if entry.own_token else "its token is not in the file"


def unusable(found: Survey, field: str) -> Finding | None:
    """That something can't be looked at, for a setting is wrong."""
    return Finding("not checked", f"waits for {name_of(field)} to be right") if name_of(field) in found.wrong else None


async def python() -> Finding:
    """Which Python runs this. pip installs the package on no other than those that it supports."""
    return Finding("ok", f"{'.'.join(map(str, sys.version_info[:3]))} in {sys.executable}")


async def packages() -> Finding:
    """Whether the installed package is the one that runs, and has the packages that it requires."""
    try:
        installed = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return Finding("warning", f"{DISTRIBUTION} is not installed; it runs from {_folder()}.", _INSTALL)
    if installed != __version__:
        found = f"{installed} is installed, but {__version__} runs, from {_folder()}."
        return Finding("problem", found, _INSTALL)
    if unmet := await _unmet_requirements():
        return Finding("problem", " ".join(unmet), _INSTALL)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    return Finding("ok", f"{DISTRIBUTION} {__version__} in {_folder()}; {versions}")


async def _unmet_requirements() -> list[str]:
    """What `pip check` reports of this package, a line each; empty in an environment without pip."""
    command = [sys.executable, "-P", "-m", "pip", "--isolated", "--disable-pip-version-check", "check"]
    done = await anyio.run_process(command, check=False)
    return [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(f"{DISTRIBUTION} ")]


def _folder() -> Path:
    return Path(__file__).parent.parent


def room(folder: Path) -> int:
    """Bytes that are free for files in a folder, in which one is written to see; it need not be there.

    Raises:
        OSError: Nothing can be written there.
    """
    with _there(folder):
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        return shutil.disk_usage(folder).free


@contextmanager
def _there(folder: Path) -> Iterator[None]:
    """A folder is there as long as the context lasts; what had to be made for it is gone afterwards."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
