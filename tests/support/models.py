"""The ids of the models that tests use."""

from __future__ import annotations

V5, LITE, PRO = "doubao-seedream-5-0-260128", "doubao-seedream-5-0-lite-260128", "doubao-seedream-5-0-pro-260628"
V45, V4 = "doubao-seedream-4-5-251128", "doubao-seedream-4-0-250828"
T2I, SEEDEDIT = "doubao-seedream-3-0-t2i-250415", "doubao-seededit-3-0-i2i-250628"
