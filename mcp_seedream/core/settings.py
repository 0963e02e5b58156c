"""Reads the settings. The command line overrides the environment, which overrides `.env`.

Clients start servers in the folder that is open, whose `.env` may come from somebody else. So the file may set harmless
settings only, unless it also contains the token that is used: see `_is_trusted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from mcp_seedream.core import setting_rules
from mcp_seedream.core.credentials import clean_token, placeholder_reason
from mcp_seedream.core.env_file import FILE, PIPE_SECONDS, EnvFile, read_env_file
from mcp_seedream.core.errors import ConfigurationError, why_invalid
from mcp_seedream.core.setting_fields import HARMLESS, HTTP_ONLY, ClaudeCode, Settings, name_of

__all__ = [
    "ClaudeCode",
    "Settings",
    "Sources",
    "about_passed_over",
    "about_trouble",
    "name_of",
    "read_settings",
    "sources",
    "validation_messages",
]

Use = Literal["local", "hosted", "doctor"]
"""What the settings are for: a local process (stdio, `try`, `install`), an HTTP server, or `doctor`, for both."""
_PREFIXES = ("SEEDREAM_", "ACEDATACLOUD_")
_FIELDS = {name_of(field): field for field in Settings.model_fields}


@dataclass(frozen=True, slots=True)
class Sources:
    """The unparsed values of the environment and `.env`, by name in upper case.

    Args:
        use: What the settings are for.
        environment: All environment variables.
        filed: The settings of `.env` that are used.
        passed_over: Names of settings in `.env` that are ignored, because they could send the token elsewhere.
        unknown: Names that look like settings but are not.
        trouble: Why `.env` can't be read.
    """

    use: Use
    environment: Mapping[str, str]
    filed: Mapping[str, str]
    passed_over: tuple[str, ...]
    unknown: tuple[str, ...]
    trouble: str

    def settings(self, **given: Any) -> Settings:
        """The settings; `given` overrides all sources.

        Raises:
            ConfigurationError: Settings are invalid; the message names each of them.
        """
        if self.trouble and self.use == "hosted":
            raise ConfigurationError(f"The setting {FILE} is wrong: {self.trouble}")
        try:
            return Settings(**self.values(**given))
        except ValidationError as error:
            messages = validation_messages(error)
        raise ConfigurationError("\n".join(f"The setting {name} is wrong: {why}" for name, why in messages.items()))

    def values(self, **given: Any) -> dict[str, Any]:
        """The arguments of `Settings`, by field; it reads the environment itself."""
        unused = HTTP_ONLY if self.use == "local" else ()
        defaults = {field: Settings.model_fields[field].get_default() for field in unused}
        filed = {_FIELDS[name]: value for name, value in self.filed.items()}
        return filed | {field: value for field, value in given.items() if value is not None} | defaults

    def warnings(self) -> list[str]:
        """Warnings for the log at startup."""
        warnings = [about_trouble(self.trouble)] if self.trouble else []
        if self.passed_over:
            who = "a server over HTTP" if self.use == "hosted" else "a server whose token is not in the same file"
            warnings.append(about_passed_over(self.passed_over, who))
        for name in self.unknown:
            from difflib import get_close_matches  # noqa: PLC0415  (slow to import, and rarely needed)

            similar = get_close_matches(name, _FIELDS, 1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            warnings.append(f"{name} is not a setting and is ignored.{hint}")
        return warnings


def about_trouble(why: str) -> str:
    """A warning about a `.env` that can't be read."""
    return f"{FILE} in {Path.cwd()} is ignored: {why}."


def about_passed_over(names: tuple[str, ...], who: str) -> str:
    """A warning about settings in `.env` that `who` ignores."""
    return (
        f"{', '.join(names)} in {Path.cwd() / FILE}: ignored, since {who} takes no addresses, paths or secrets "
        "from there. Set them in the environment."
    )


def sources(use: Use, *, pipe_seconds: float = PIPE_SECONDS) -> Sources:
    """Read the environment and `.env`, each once; a `.env` that is a pipe may take `pipe_seconds`."""
    environment = {name.upper(): value or "" for name, value in EnvSettingsSource(Settings).env_vars.items()}
    file = read_env_file(pipe_seconds)
    has_token = name_of("token") not in environment and _has_token(file)
    filed, passed_over = dict[str, str](), list[str]()
    for name, field in _FIELDS.items():
        if name in environment or name not in file.values or (use == "local" and field in HTTP_ONLY):
            continue
        if field in HARMLESS or field == "token":
            filed[name] = file.values[name]
        elif _is_trusted(field, use, has_token=has_token):
            filed[name] = file.literal[name]  # without variables of the environment, which may be secret
        elif not setting_rules.is_left_empty(file.literal[name]):
            passed_over.append(name)
    prefixed = {name for name in {*environment, *file.values} if name.startswith(_PREFIXES)}
    unknown = tuple(sorted(prefixed - _FIELDS.keys()))
    return Sources(use, environment, filed, tuple(sorted(passed_over)), unknown, file.trouble)


def read_settings(use: Use = "hosted", /, **given: Any) -> Settings:
    """The settings; `given`, from the command line, overrides the environment, which overrides `.env`.

    Raises:
        ConfigurationError: Settings are invalid; the message names each of them.
    """
    return sources(use).settings(**given)


def _is_trusted(field: str, use: Use, *, has_token: bool) -> bool:
    """Whether an address, path or secret in `.env` is used: only if the token that is used is in the same file.

    Over HTTP it never is, because callers send tokens that are not in the file.
    """
    return has_token and use != "hosted" and field not in HTTP_ONLY


def _has_token(file: EnvFile) -> bool:
    """Whether the file has a token that is neither a placeholder nor a reference to the environment."""
    literal = file.literal.get(name_of("token"), "")
    if setting_rules.is_left_empty(literal) or literal != file.values[name_of("token")]:
        return False
    try:
        token = clean_token(literal)
    except ValueError:
        return False
    return bool(token) and not placeholder_reason(token)


def validation_messages(error: ValidationError) -> dict[str, str]:
    """Why each invalid setting is invalid, by the name of its environment variable."""
    messages: dict[str, str] = {}
    for each in error.errors(include_input=False, include_url=False):
        field = str(each["loc"][0]) if each["loc"] else "settings"
        name = name_of(field) if field in Settings.model_fields else field
        messages.setdefault(name, why_invalid(each))
    return messages
