"""Parses the upstream's times, and the expiry of signed links, as Unix seconds."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit


def link_expiry(url: str) -> float | None:
    """The expiry of a signed link in Unix seconds (`X-…-Date` and `X-…-Expires`, or `Expires`); None without one."""
    try:
        fields = parse_qs(urlsplit(url).query)
    except ValueError:
        return None
    query = {name.rpartition("-")[2].lower(): values[-1] for name, values in fields.items()}
    expires, date = query.get("expires", ""), query.get("date", "")
    if not re.fullmatch(r"[0-9]{1,10}", expires):
        return None
    if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", date):
        with suppress(ValueError):
            start = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            return unix_time(start + int(expires))
    return unix_time(int(expires)) if len(expires) == 10 else None


def unix_time(value: Any) -> float | None:
    """A Unix time in seconds, from seconds or milliseconds; None unless it is between 2001 and 2100."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1e9 < value < 4.1e12:
        return None
    seconds = value / 1000 if value > 1e11 else float(value)
    return seconds if 1e9 < seconds < 4.1e9 else None
