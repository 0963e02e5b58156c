"""A report of all settings and their sources, valid or not, for `doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TextIO

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from mcp_seedream.core.credentials import clean_token
from mcp_seedream.core.settings import Settings, Sources, name_of, sources, validation_messages

_HOSTING = (
    *("public_url", "seal_keys", "redis_url", "access_seconds", "refresh_seconds", "workers", "metrics_dir"),
    *("allowed_hosts", "allowed_origins", "cors_origins", "calls_at_once", "all_calls_at_once", "generations_a_minute"),
    *("check_seconds", "max_header_kib", "max_body_mib", "all_bodies_mib"),
)
"""Settings that show that a server for other people is configured."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The settings, and what the environment and `.env` contain.

    Args:
        settings: The settings; an invalid one has its default.
        wrong: Why settings are invalid, by name.
        unknown: Names that look like settings but are not.
        written: Unparsed values of the environment.
        filed: Unparsed values of `.env` that the environment does not override.
        passed_over: Names of settings in `.env` that are ignored.
        trouble: Why `.env` can't be read.
        lender: The client whose settings file has the token, if the environment and `.env` have none.
        elsewhere: Who supplies a token that can't be read from here.
    """

    settings: Settings
    wrong: Mapping[str, str]
    unknown: tuple[str, ...]
    written: Mapping[str, str]
    filed: Mapping[str, str]
    passed_over: tuple[str, ...] = ()
    trouble: str = ""
    lender: str = ""
    elsewhere: str = ""

    @property
    def serves_others(self) -> bool:
        """Whether a setting that only a server for other people needs is set, validly or not."""
        fields = Settings.model_fields
        set_ = {field for field in _HOSTING if getattr(self.settings, field) != fields[field].get_default()}
        return bool(set_) or any(name_of(field) in self.wrong for field in _HOSTING)

    def with_token(self, written: str, lender: str) -> Survey:
        """A copy with the token from the settings file of the client `lender`."""
        try:
            settings = self.settings.model_copy(update={"token": SecretStr(clean_token(written))})
        except ValueError as error:
            return replace(self, wrong={**self.wrong, name_of("token"): f"{error}, in {lender}"})
        return replace(self, settings=settings, lender=lender)

    def with_sandbox(self, settings: Settings) -> Survey:
        """A copy for a sandbox as the upstream, without the settings of the real one."""
        its_own = {name_of(field) for field in ("token", "base_url", "image_hosts")}
        kept = [{k: v for k, v in each.items() if k not in its_own} for each in (self.wrong, self.written, self.filed)]
        return Survey(settings, kept[0], self.unknown, kept[1], kept[2], self.passed_over, self.trouble)


def survey() -> Survey:
    """Read the environment and `.env`, even if settings are invalid."""
    found = sources("doctor")
    settings, wrong = _usable(found)
    names = {name_of(field) for field in Settings.model_fields}
    return Survey(
        settings,
        wrong,
        found.unknown,
        {name: found.environment[name] for name in sorted(names & found.environment.keys())},
        dict(sorted(found.filed.items())),
        found.passed_over,
        found.trouble,
    )


def _usable(found: Sources) -> tuple[Settings, dict[str, str]]:
    """The settings with defaults for invalid ones, and why those are invalid."""
    try:
        return Settings(**found.values()), {}
    except ValidationError as error:
        wrong = validation_messages(error)
    fields = Settings.model_fields.items()
    defaults = {field: info.get_default() for field, info in fields if name_of(field) in wrong}
    return Settings(**found.values() | defaults), wrong


def coloured(stream: TextIO) -> bool:
    """Whether to use colours on this stream: on a terminal, unless NO_COLOR or TERM forbids it."""
    environment = EnvSettingsSource(Settings).env_vars
    return stream.isatty() and not environment.get("no_color") and environment.get("term") not in (None, "dumb")
