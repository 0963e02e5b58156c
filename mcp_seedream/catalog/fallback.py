"""Model choice for one call, repeated after each refusal by the upstream, with notes for the caller.

A model or size that the caller named is never replaced. The only exception is the size that leaves the shape to the
model (`adaptive`): it is dropped if it is refused, since leaving out the size has the same effect.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.selection import (
    ImageSpec,
    Refusal,
    accepts_shape,
    capable_models,
    choose,
    non_neutral_options,
    sent_size,
)
from mcp_seedream.catalog.table import Model, ModelTable, or_list
from mcp_seedream.core.errors import InvalidArguments

Part = Literal["model", "size"]
"""The part of a request that the upstream refused."""


class ModelChoice:
    """The chosen model of one call, and the spec that is sent to it.

    Args:
        table: The capability table.
        spec: The requested image.
        named: The model that the caller named, if any.
        avoiding: Recent refusals by the upstream.

    Attributes:
        model: The chosen model.
        spec: The spec to send to it.

    Raises:
        InvalidArguments: No model supports the spec.
    """

    def __init__(
        self, table: ModelTable, spec: ImageSpec, named: str | None = None, avoiding: Collection[Refusal] = ()
    ) -> None:
        self._table = table
        self._named = named
        self._avoiding = frozenset(avoiding)
        self._refused: list[Refusal] = []
        self._notes: list[str] = []
        self.spec = spec
        self.model = choose(table, spec, named, avoiding=self._avoiding)
        if self._avoiding:
            self._apply_recent_refusals()

    def _apply_recent_refusals(self) -> None:
        """Drop `adaptive` if it was refused recently, or note why the usual model was not chosen."""
        if self._has_any_shape():
            model = choose(self._table, replace(self.spec, size=None), self._named, avoiding=self._avoiding)
            if (model.id, self.spec.size) in self._avoiding:
                self._drop_size(model)
                return
        if self._named is None and self.model is not (usual := choose(self._table, self.spec)):
            size = sent_size(self._table, usual, self.spec)
            self._notes.append(f"The upstream recently refused {_refused_part(usual, size, self._avoiding)}.")

    def refused(self, model_id: str | None, part: Part) -> Refusal:
        """Return the refusal of this call by a model, with the sent size if `part` is "size"."""
        model = self._table.by_id.get(model_id or "", self.model)
        return model.id, sent_size(self._table, model, self.spec) if part == "size" else None

    def refuse(self, model_id: str | None, part: Part) -> bool:
        """Choose again after a refusal, and update `model` and `spec`.

        Args:
            model_id: The model that the refused request named.
            part: The part of the request that was refused.

        Returns:
            False if there is no other choice.
        """
        refusal = self.refused(model_id, part)
        model = self._table.by_id[refusal[0]]
        self._refused.append(refusal)
        if _is_released(self.spec):
            return False
        if part == "size" and self._has_any_shape():
            self._drop_size(model)
            return True
        if self._named is not None:
            return False
        try:
            self.model = choose(self._table, self.spec, excluding=self._refused, avoiding=self._avoiding)
        except InvalidArguments:
            return False
        self._notes.append(f"The upstream refused {_refused_part(model, refusal[1], [refusal])}.")
        return True

    def notes(self) -> list[str]:
        """Return notes for the caller: refusals, a size that only another model accepts, a withdrawn model."""
        notes = list(self._notes)
        if self._named is None:
            if reason := self._reason_for_model():
                notes.append(f"{reason}.")
            if notes:
                notes[-1] = f"{notes[-1].removesuffix('.')}, so {self.model.label} was used."
        if self.model.withdrawn:
            notes.append(f"{withdrawal(self.model)}: calls may be refused.")
        return notes

    def advice(self, model_id: str | None) -> str:
        """Return advice on how to change the refused call, in one or two sentences."""
        table, spec, model = self._table, self.spec, self._table.by_id.get(model_id or "", self.model)
        for name in non_neutral_options(table, spec):
            models = [m for m in table.models_for(spec.operation) if table.rule(m, name, spec.operation)]
            if all(m.withdrawn for m in models):
                names = or_list(f"{m.name}, which the vendor withdrew on {m.withdrawn}" for m in models)
                return f"`{name}` works only with {names}: leave `{name}` out."
        if self._named is None and _is_released(spec):
            return "Make the same call again: it is sent in another way."
        if self._named is None:
            return "No other model supports this call: leave out the arguments that need this model."
        others = [m.label for m in capable_models(table, spec) if m is not model and not m.withdrawn]
        instead = f" {or_list(others)} can serve this call; or leave `model` out." if others else ""
        if model.withdrawn:
            return f"{withdrawal(model)}.{instead}"
        return f"{model.label} accepts `size` {or_list([*model.sizes, 'WIDTHxHEIGHT'])}.{instead}"

    def _has_any_shape(self) -> bool:
        return self.spec.size == self._table.named_sizes.any_shape

    def _drop_size(self, model: Model) -> None:
        self._notes.append(
            f"{model.label} no longer accepts `size` {self.spec.size}; it was left out, to the same effect."
        )
        self.spec, self.model = replace(self.spec, size=None), model

    def _reason_for_model(self) -> str | None:
        """Return why the usual model does not support the size or aspect ratio, as a clause; None if it does."""
        spec = self.spec
        if not (spec.size or spec.aspect_ratio) or self._notes:
            return None
        usual = choose(self._table, replace(spec, size=None, aspect_ratio=None), avoiding=self._avoiding)
        if usual is self.model or accepts_shape(self._table, usual, spec):
            return None
        requested = " with ".join(filter(None, (spec.aspect_ratio, spec.size)))
        if (sides := dimensions.pixels(spec.size or "")) and usual.pixels:
            area, (low, high) = sides[0] * sides[1], usual.pixels
            if area < low:
                return f"{requested} is below {usual.label}'s minimum of {low:,} pixels"
            if area > high:
                return f"{requested} is above {usual.label}'s maximum of {high:,} pixels"
        return f"{usual.label} does not accept {requested}"


def _is_released(spec: ImageSpec) -> bool:
    """Whether pictures were released, so that the call can't be sent again."""
    return "" in spec.images


def _refused_part(model: Model, size: str | None, refusals: Collection[Refusal]) -> str:
    """Name a refused model, or the refused size of a model, for a note."""
    return model.label if (model.id, None) in refusals else f"`size` {size} for {model.label}"


def withdrawal(model: Model) -> str:
    """Return the clause that a model was withdrawn, for an error or a note."""
    return f"The vendor withdrew {model.name} on {model.withdrawn}"
