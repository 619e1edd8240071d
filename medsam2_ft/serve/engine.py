"""Models that stay loaded, shared by all sessions."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from medsam2_ft.errors import UserError
from medsam2_ft.models import load_model, resolve_device, resolve_dtype, rule_for
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.propagate import Strategy
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.serve.backend import Backend, FakeBackend, Sam2Backend
from medsam2_ft.serve.registry import Entry, Registry, check_sha256
from medsam2_ft.types import IntensityRule, LabelVolume, Volume

KEPT_MODELS = 2


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready.

    Attributes:
        entry: Where it came from.
        backend: For sessions.
        segmenter: For calls without a session; None of the fake engine.
    """

    entry: Entry
    backend: Backend
    segmenter: Segmenter | None

    def rule_for(self, volume: Volume) -> IntensityRule:
        """Chooses the rule that turns a volume to 0-255."""
        if self.entry.rule is not None and volume.array.ndim == 3:
            return self.entry.rule
        if self.segmenter is not None:
            return self.segmenter.rule_for(volume)
        return rule_for(volume, (), ())


@runtime_checkable
class Engine(Protocol):
    """What the API needs of models."""

    device: str

    def entries(self) -> Mapping[str, Entry]:
        """Returns the models that can be chosen now, by id."""

    @property
    def default_model(self) -> str | None:
        """The model of clients that name none; None where there is no model."""

    def is_loaded(self, model_id: str) -> bool:
        """Whether a model is in memory."""

    def load(self, model_id: str) -> Loaded:
        """Returns a model, loading it first where it is not in memory."""


class ModelEngine:
    """Loads models by id and keeps the latest; one that a session uses lives on with it.

    Args:
        registry: Which models there are.
        default: Id for clients that name none; None is the first of the registry.
        device: See ``models.resolve_device``.
        dtype: See ``models.resolve_dtype``.

    Raises:
        UserError: There is no such device or model.
    """

    def __init__(
        self,
        registry: Registry,
        default: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.registry = registry
        self._place = resolve_device(device)
        self.device = str(self._place)
        self._dtype = resolve_dtype(dtype, self._place)
        self._default = default
        self._loaded: OrderedDict[tuple[str, str | None], Loaded] = OrderedDict()
        self._guard = threading.Lock()
        if default is not None and default not in self.entries():
            known = ", ".join(self.entries()) or "none"
            raise UserError(
                f"--model {default}: there is no such model (there are: {known}); put its file "
                "into the folder checkpoints (medsam2-ft weights), or list it in --models"
            )

    def entries(self) -> Mapping[str, Entry]:
        """Returns the models that can be chosen now, by id."""
        return self.registry.entries()

    @property
    def default_model(self) -> str | None:
        """The model of clients that name none; None where there is no model."""
        entries = self.entries()
        return self._default if self._default in entries else next(iter(entries), None)

    def is_loaded(self, model_id: str) -> bool:
        """Whether a model is in memory."""
        return any(key[0] == model_id for key in list(self._loaded))

    def load(self, model_id: str) -> Loaded:
        """Returns a model, loading it first where it is not in memory.

        Raises:
            UserError: There is no such model, or its file is damaged or another one.
        """
        entry = self.entries().get(model_id)
        if entry is None:
            raise UserError(f"there is no model {model_id}.")
        with self._guard:
            key = (model_id, entry.sha256)  # an export that was written anew is another one
            if key not in self._loaded:
                self._loaded[key] = self._load(entry)
            self._loaded.move_to_end(key)
            while len(self._loaded) > KEPT_MODELS:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def _load(self, entry: Entry) -> Loaded:
        check_sha256(entry)
        found = load_model(entry.source, device=self._place, image_size=entry.image_size)
        if not isinstance(found.model, Sam2):
            raise UserError(f"model {entry.model_id} is no SAM2: sessions need one.")
        strategy: Strategy = found.strategy
        if entry.strategy is not None:
            strategy = "memory" if entry.strategy == "memory" else "box"
        segmenter = Segmenter(
            found.model,
            name=entry.model_id,
            strategy=strategy,
            dtype=self._dtype,
            rules=found.rules,
            modalities=found.modalities,
            sha256=found.sha256,
        )
        return Loaded(entry, Sam2Backend(found.model, strategy, self._dtype), segmenter)


class FakeEngine:
    """Boxes instead of a model, for tests of the web layers."""

    device = "cpu"
    default_model: str | None = "fake"

    def __init__(self, backend: FakeBackend | None = None) -> None:
        self.loaded = Loaded(Entry("fake", "fake", "registry"), backend or FakeBackend(), None)

    def entries(self) -> Mapping[str, Entry]:
        """Returns the one model."""
        return {"fake": self.loaded.entry}

    def is_loaded(self, model_id: str) -> bool:
        """Whether a model is in memory."""
        return model_id == "fake"

    def load(self, model_id: str) -> Loaded:
        """Returns the one model."""
        return self.loaded


def segment_once(
    loaded: Loaded,
    volume: Volume,
    prompts: Sequence[ObjectPrompt],
    rule: IntensityRule,
    **how: Any,
) -> LabelVolume:
    """Segments a volume without a session, see ``Segmenter.segment``.

    Raises:
        UserError: See there; or the model knows sessions only.
    """
    if loaded.segmenter is None:
        raise UserError(f"model {loaded.entry.model_id} knows sessions only.")
    return loaded.segmenter.segment(volume, prompts, intensity=rule, **how)
