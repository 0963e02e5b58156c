"""Which settings there are, and where each comes from, for whoever looks for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TextIO

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from mcp_seedream.core.credentials import clean_token
from mcp_seedream.core.settings import Settings, Sources, complaints, name_of, sources

_FOR_OTHERS = (
    *("public_url", "seal_keys", "redis_url", "access_seconds", "refresh_seconds", "workers", "metrics_dir"),
    *("allowed_hosts", "allowed_origins", "cors_origins", "calls_at_once", "all_calls_at_once", "generations_a_minute"),
    *("check_seconds", "max_header_kib", "max_body_mib"),
)
"""Settings that show that a server for others is meant."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All that the environment and `.env` say.

    `settings` are those that can be used: why another can't stands in `wrong`, by its name, and it has its default.
    `unknown` are names that look like settings and are none. `written` is what the environment says, `filed` what
    `.env` says and the environment does not, both as they are written. `passed_over` are settings that it says and that
    do not count, and `trouble` is why it can't be read. `lender` has the token of `settings`, where
    neither of them has one; `elsewhere` is who else sees to a token, where none can be seen.
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
        """Whether something is set, be it wrong, that only a server for others has a use for."""
        fields = Settings.model_fields
        set_ = {field for field in _FOR_OTHERS if getattr(self.settings, field) != fields[field].get_default()}
        return bool(set_) or any(name_of(field) in self.wrong for field in _FOR_OTHERS)

    def with_token(self, written: str, lender: str) -> Survey:
        """The same with a token that somebody else keeps, as it is written there."""
        try:
            settings = self.settings.model_copy(update={"token": SecretStr(clean_token(written))})
        except ValueError as error:
            return replace(self, wrong={**self.wrong, name_of("token"): f"{error}, in {lender}"})
        return replace(self, settings=settings, lender=lender)

    def with_sandbox(self, settings: Settings) -> Survey:
        """The same where a sandbox is the upstream: whatever is said of the real one does not count."""
        its_own = {name_of(field) for field in ("token", "base_url", "image_hosts")}
        kept = [{k: v for k, v in each.items() if k not in its_own} for each in (self.wrong, self.written, self.filed)]
        return Survey(settings, kept[0], self.unknown, kept[1], kept[2], self.passed_over, self.trouble)


def survey() -> Survey:
    """Look at the environment and `.env`, however wrong they are."""
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
    try:
        return Settings(**found.values()), {}
    except ValidationError as error:
        wrong = complaints(error)
    fields = Settings.model_fields.items()
    defaults = {field: info.get_default() for field, info in fields if name_of(field) in wrong}
    return Settings(**found.values() | defaults), wrong


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may be in colours: on a terminal, unless NO_COLOR or TERM says otherwise."""
    environment = EnvSettingsSource(Settings).env_vars
    return stream.isatty() and not environment.get("no_color") and environment.get("term") not in (None, "dumb")
