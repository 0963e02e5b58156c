"""The choice of a model for one call, made again after each refusal, and what the caller should know of it.

Only what the caller left open is chosen again: a named model or size is never swapped. The one exception is the size
that leaves the shape to the model (`adaptive`), which means the same as no size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.selection import (
    ImageSpec,
    Refusal,
    able_models,
    asked_options,
    choose,
    sent_size,
    takes_shape,
)
from mcp_seedream.catalog.table import Model, ModelTable, either
from mcp_seedream.core.errors import InvalidArguments

Part = Literal["model", "size"]
"""The part of a request that the upstream refused."""


class ModelChoice:
    """The model of one call, and the call as it is sent to it.

    Args:
        table: The capability table.
        spec: What is asked for.
        named: The model that the caller named, if any.
        avoiding: What production refused lately.

    Raises:
        InvalidArguments: No model serves the call.
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
            self._avoid()

    def _avoid(self) -> None:
        """Take what was refused lately into account: drop a refused `adaptive`, or say why another model is chosen."""
        if self._has_any_shape():
            shapeless = choose(self._table, replace(self.spec, size=None), self._named, avoiding=self._avoiding)
            if (shapeless.id, self.spec.size) in self._avoiding:
                self._drop_size(shapeless)
                return
        if self._named is None and self.model is not (usual := choose(self._table, self.spec)):
            size = sent_size(self._table, usual, self.spec)
            self._notes.append(f"The upstream refused {_named(usual, size, self._avoiding)} lately.")

    def refused(self, model_id: str | None, part: Part) -> Refusal:
        """What is remembered of a refusal: the model, and its size where that was refused."""
        model = self._table.by_id.get(model_id or "", self.model)
        return model.id, sent_size(self._table, model, self.spec) if part == "size" else None

    def refuse(self, model_id: str | None, part: Part) -> bool:
        """Choose again after a refusal.

        Args:
            model_id: The model that was refused, or that refused the size.
            part: Which of the two was refused.

        Returns:
            Whether there is another choice, which `model` and `spec` hold then.
        """
        refusal = self.refused(model_id, part)
        model = self._table.by_id[refusal[0]]
        self._refused.append(refusal)
        if part == "size" and self._has_any_shape():
            self._drop_size(model)
            return True
        if self._named is not None:
            return False
        try:
            self.model = choose(self._table, self.spec, excluding=self._refused, avoiding=self._avoiding)
        except InvalidArguments:
            return False
        self._notes.append(f"The upstream refused {_named(model, refusal[1], [refusal])}.")
        return True

    def notes(self) -> list[str]:
        """What the caller should know of the choice: refusals, a size that decided on the model, a withdrawn model."""
        notes = list(self._notes)
        if self._named is None:
            if why := self._why_another():
                notes.append(f"{why}.")
            if notes:
                notes[-1] = f"{notes[-1].removesuffix('.')}, so {self.model.label} was used."
        if self.model.withdrawn:
            notes.append(f"{withdrawal(self.model)}: calls may be refused.")
        return notes

    def advice(self, model_id: str | None) -> str:
        """What would work instead of the refused call, in a sentence or two; nothing was billed for it."""
        table, spec, model = self._table, self.spec, self._table.by_id.get(model_id or "", self.model)
        for name in asked_options(table, spec):
            takers = [m for m in table.models_for(spec.operation) if table.rule(m, name, spec.operation)]
            if all(taker.withdrawn for taker in takers):
                gone = either(f"{taker.name}, which the vendor withdrew on {taker.withdrawn}" for taker in takers)
                return f"`{name}` works only with {gone}: leave `{name}` out."
        if self._named is None:
            return "No other model can serve this call: drop what only this one takes."
        others = [m.label for m in able_models(table, spec) if m is not model and not m.withdrawn]
        instead = f" {either(others)} can serve this call; or leave `model` out." if others else ""
        if model.withdrawn:
            return f"{withdrawal(model)}.{instead}"
        return f"{model.label} takes `size` {either([*model.sizes, 'WIDTHxHEIGHT'])}.{instead}"

    def _has_any_shape(self) -> bool:
        return self.spec.size == self._table.named_sizes.any_shape

    def _drop_size(self, model: Model) -> None:
        self._notes.append(f"{model.label} no longer takes `size` {self.spec.size}; without a size it means the same.")
        self.spec, self.model = replace(self.spec, size=None), model

    def _why_another(self) -> str | None:
        """Why the size or shape of the call needs another model than the default, in a clause."""
        spec = self.spec
        if not (spec.size or spec.aspect_ratio) or self._notes:
            return None
        usual = choose(self._table, replace(spec, size=None, aspect_ratio=None), avoiding=self._avoiding)
        if usual is self.model or takes_shape(self._table, usual, spec):
            return None
        asked = " with ".join(filter(None, (spec.aspect_ratio, spec.size)))
        if (sides := dimensions.pixels(spec.size or "")) and usual.pixels:
            area, (low, high) = sides[0] * sides[1], usual.pixels
            if area < low:
                return f"{asked} is below {usual.label}'s minimum of {low:,} pixels"
            if area > high:
                return f"{asked} is above {usual.label}'s maximum of {high:,} pixels"
        return f"{usual.label} does not take {asked}"


def _named(model: Model, size: str | None, refusals: Collection[Refusal]) -> str:
    """A refused model, or a refused size of a model, for a note."""
    return model.label if (model.id, None) in refusals else f"`size` {size} for {model.label}"


def withdrawal(model: Model) -> str:
    """That a model was withdrawn, and when, for an error or a note."""
    return f"The vendor withdrew {model.name} on {model.withdrawn}"
