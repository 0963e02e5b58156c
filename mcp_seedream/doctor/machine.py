"""Checks of this machine: Python and packages, settings, folders, the journal, and the clients' settings."""

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
from mcp_seedream.core.credentials import masked_token, placeholder_reason
from mcp_seedream.core.env_file import FILE
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import Settings, ignored_warning, name_of, read_error_warning
from mcp_seedream.core.settings_report import SettingsReport
from mcp_seedream.doctor.findings import Check, Finding, Level, in_background
from mcp_seedream.generation.journal import Journal, usual_path
from mcp_seedream.install.discovery import Installation, Installed

_SHOWN = ("mcp", "pydantic", "httpx", "pillow")
_MAX_SHOWN = 60  # characters of a setting's value
_MIN_FREE = 200 * 2**20  # bytes
_INSTALL = "Install it again, with `pip install --upgrade .` in its folder."


class MachineChecks:
    """The checks of this machine.

    Args:
        report: The settings and their sources.
    """

    def __init__(self, report: SettingsReport) -> None:
        self._report = report
        self._settings = report.settings

    def checks(self) -> list[Check]:
        """The checks, in order."""
        return [
            Check("python", python),
            Check("packages", packages),
            Check("settings", self._check_settings),
            Check("models", self._models),
            Check("output", self._output),
            Check("journal", self._journal),
        ]

    async def _check_settings(self) -> Finding:
        token = name_of("token")  # it has its own check
        errors = [
            f"{name}: {why}{self._shown_value(name)}" for name, why in self._report.invalid.items() if name != token
        ]
        if errors:
            advice = f"Correct it under `env` in the client's settings, or in {FILE}."
            return Finding("problem", "; ".join(errors), advice)
        if self._report.read_error:
            text = read_error_warning(self._report.read_error)
            return Finding("warning", text, "Save it in UTF-8. Over HTTP, the server does not start with such a file.")
        if self._report.ignored:
            advice = "Set them under `env` in the client's settings. docs/security.md explains why."
            return Finding("warning", ignored_warning(self._report.ignored, "the server"), advice)
        if self._report.unknown:
            names = [name_of(field) for field in Settings.model_fields]
            similar = {name: get_close_matches(name, names, 1, 0.5) for name in self._report.unknown}
            unknown = ", ".join(f"{name} (did you mean {s[0]}?)" if s else name for name, s in similar.items())
            return Finding(
                "warning", f"Unknown setting: {unknown}.", "It has no effect. docs/hosting.md lists all settings."
            )
        parts = [f"{len(self._report.environment)} from the environment"] if self._report.environment else []
        if self._report.env_file:
            parts.append(f"{len(self._report.env_file)} from {Path.cwd() / FILE}")
            advice = f"{FILE} applies only to servers started in this folder. Clients start them in other folders."
            return Finding("ok", ", ".join(parts), advice)
        return Finding("ok", ", ".join(parts) or "all have their defaults")

    def _shown_value(self, name: str) -> str:
        """The value for an error message; empty if it may hold a secret."""
        value = self._report.environment.get(name, self._report.env_file.get(name, ""))
        secrets = {name_of(field) for field, info in Settings.model_fields.items() if "Secret" in str(info.annotation)}
        return "" if name in secrets or not value or "@" in value else f": {value[:_MAX_SHOWN]!r}"

    async def _models(self) -> Finding:
        if finding := invalid_setting(self._report, "models_file"):
            return finding
        try:
            table = read_table(self._settings.models_file)
        except ConfigurationError as error:
            return Finding("problem", error.message, f"Correct the file, or remove {name_of('models_file')}.")
        return Finding("ok", f"{len(table.models)} in {self._settings.models_file or 'the built-in table'}")

    async def _output(self) -> Finding:
        if finding := invalid_setting(self._report, "output_dir") or invalid_setting(self._report, "allowed_dirs"):
            return finding
        folder, name = self._settings.output_dir, name_of("output_dir")
        for allowed in self._settings.allowed_dirs:
            if not await in_background(allowed.is_dir):
                text = f"{allowed} is not a folder, so no picture can be read from it."
                return Finding("warning", text, f"Create it, or correct {name_of('allowed_dirs')}.")
        if folder is None:
            return Finding("ok", f"pictures are not saved; links expire after about a day ({name} saves every picture)")
        try:
            free = await in_background(partial(free_bytes, folder.absolute()))
        except OSError as error:
            text = f"Pictures can't be saved to {folder.absolute()}: {error.strerror or error}."
            return Finding("problem", text, f"Set {name} to another folder.")
        if free < _MIN_FREE:
            text = f"{folder.absolute()}: only {free / 2**20:.0f} MB are free."
            return Finding(
                "warning", text, "Free some space. Pictures that can't be saved are only links, which expire in a day."
            )
        return Finding("ok", f"{folder.absolute()}, {free / 2**30:,.0f} GB free")

    async def _journal(self) -> Finding:
        if finding := invalid_setting(self._report, "journal"):
            return finding
        if self._settings.journal == "off":
            return Finding("ok", "off: pictures whose results are lost can't be found again")
        path = (Path(self._settings.journal) if self._settings.journal else usual_path()).absolute()
        advice = f"The server works without it. Move it away, or set {name_of('journal')} to another file."
        try:
            if not await in_background(path.exists):
                await in_background(partial(free_bytes, path.parent))
                return Finding("ok", f"none yet; the first call creates {path}")
        except OSError as error:
            return Finding("warning", f"{path} can't be created: {error.strerror or error}.", advice)
        journal = Journal(path)
        tasks = await journal.count()
        journal.close()
        if journal.trouble:
            return Finding("warning", f"{path} can't be used: {journal.trouble}.", advice)
        if tasks is None:
            return Finding(
                "warning",
                f"{path} is locked by another program.",
                "The server works without it, and tries again each minute.",
            )
        return Finding("ok", f"{path}, {tasks} task{'' if tasks == 1 else 's'}")


def client_entries(installed: Installed) -> Finding:
    """A finding about the clients that have an entry for this server, and whether the entries can work."""
    again = "Run `mcp-seedream install {}` again. If a folder was moved, install the package there first."
    bad: list[Finding] = []
    for each in installed.entries:
        name = each.client if each.name == "seedream" else f"{each.client} --name {each.name}"
        if not each.command_exists:
            missing = f"{each.title} starts {each.command}, which does not exist (see {each.file})."
            bad.append(Finding("problem", missing, again.format(name)))
        elif each.unrelated:
            program = "an unrelated project, the package index's `mcp-seedream`"
            advice = f"{again.format(name)} Revoke the token that it received."
            bad.append(Finding("problem", f"{each.title} starts {program} (see {each.file}).", advice))
        elif each.own_token and (why := placeholder_reason(each.own_token)):
            bad.append(Finding("problem", f"{each.title} has no token: {why} in {each.file}.", again.format(name)))
        elif each.command and not each.sandbox and not each.token:
            bad.append(Finding("warning", f"{each.title} has no token in {each.file}.", again.format(name)))
    for title, why in installed.broken.items():
        bad.append(Finding("warning", f"The settings of {title}: {why}", f"Correct the file: {title} may ignore it."))
    if bad:
        level: Level = "problem" if any(each.level == "problem" for each in bad) else "warning"
        return Finding(
            level, " ".join(each.found for each in bad), " ".join(dict.fromkeys(each.advice for each in bad))
        )
    text = ", ".join(f"{each.title} ({_kind(each)})" for each in installed.entries)
    return Finding("ok", text or "not installed in any known client; `mcp-seedream install CLIENT` installs it")


def _kind(entry: Installation) -> str:
    if not entry.command:
        return "hosted"
    if entry.sandbox:
        return "with the sandbox"
    return masked_token(entry.own_token) if entry.own_token else "token not in the file"


def invalid_setting(report: SettingsReport, field: str) -> Finding | None:
    """A finding that a check is skipped because its setting is invalid; None if the setting is valid."""
    return Finding("not checked", f"{name_of(field)} is invalid") if name_of(field) in report.invalid else None


async def python() -> Finding:
    """A finding with the version of Python. It is supported: pip does not install the package on others."""
    return Finding("ok", f"{'.'.join(map(str, sys.version_info[:3]))} in {sys.executable}")


async def packages() -> Finding:
    """Check that the installed package is the running one, and that its requirements are installed."""
    try:
        installed = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return Finding("warning", f"{DISTRIBUTION} is not installed; it runs from {_folder()}.", _INSTALL)
    if installed != __version__:
        text = f"{installed} is installed, but {__version__} runs, from {_folder()}."
        return Finding("problem", text, _INSTALL)
    if unmet := await _unmet_requirements():
        return Finding("problem", " ".join(unmet), _INSTALL)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    return Finding("ok", f"{DISTRIBUTION} {__version__} in {_folder()}; {versions}")


async def _unmet_requirements() -> list[str]:
    """The lines of `pip check` about this package; empty in an environment without pip."""
    command = [sys.executable, "-P", "-m", "pip", "--isolated", "--disable-pip-version-check", "check"]
    done = await anyio.run_process(command, check=False)
    return [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(f"{DISTRIBUTION} ")]


def _folder() -> Path:
    return Path(__file__).parent.parent


def free_bytes(folder: Path) -> int:
    """The free space in a folder, which need not exist, in bytes. A temporary file is written to test the folder.

    Raises:
        OSError: Nothing can be written there.
    """
    with _created(folder):
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        return shutil.disk_usage(folder).free


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder and its parents, and remove them when the context ends; existing folders stay."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
