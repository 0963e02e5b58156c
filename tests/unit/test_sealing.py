"""Sealed texts: when the same value gives the same text, and who can open it."""

from __future__ import annotations

from mcp_seedream.oauth.sealing import Sealer

OLD, NEW = "a-secret-for-tests-of-forty-characters--", "another-secret-for-tests-that-is-as-long"
RESOURCE = "https://seedream.example.com/mcp"


def test_a_repeatable_text() -> None:
    """It depends on the value, the kind, the endpoint and the key, and so does its nonce; other texts are all new."""
    sealer = Sealer([OLD], RESOURCE)
    texts = [
        sealer.seal("access", {"a": 1}, repeatable=True),
        sealer.seal("access", {"a": 2}, repeatable=True),
        sealer.seal("refresh", {"a": 1}, repeatable=True),
        Sealer([OLD], f"{RESOURCE}/").seal("access", {"a": 1}, repeatable=True),
        Sealer([NEW, OLD], RESOURCE).seal("access", {"a": 1}, repeatable=True),
        sealer.seal("access", {"a": 1}),
        sealer.seal("access", {"a": 1}),
    ]
    assert len({text.split("_", 2)[2][:16] for text in texts}) == len(texts)
    assert Sealer([OLD, NEW], RESOURCE).seal("access", {"a": 1}, repeatable=True) == texts[0]


def test_what_the_replicas_of_a_rotation_can_open() -> None:
    """Each step opens what the one before and the one after it seal."""
    steps = [Sealer(keys, RESOURCE) for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])]
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert steps[other].open("access", steps[one].seal("access", 1)) == 1
        assert steps[one].open("access", steps[other].seal("access", 1)) == 1
    assert steps[0].open("access", steps[2].seal("access", 1)) is None
