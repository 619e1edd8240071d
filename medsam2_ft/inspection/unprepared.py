"""Images that are not prepared yet, as the case that ``prepare`` would make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule, rule_for_modality
from medsam2_ft.io import file_stem, read_labels, read_volume
from medsam2_ft.prepare.gray import rule_for_image
from medsam2_ft.prepare.grid import on_image_grid
from medsam2_ft.types import Case, LabelVolume, Volume


@dataclass(frozen=True)
class Conversion:
    """How images become cases.

    Attributes:
        modality: For images that do not say theirs.
        window: See ``rule_for_modality``.
        labels: Label file of the only image.
    """

    modality: str | None = None
    window: str | None = None
    labels: Path | None = None

    def check(self, images: Sequence[Path], total: int) -> None:
        """Complains about options that would do nothing.

        Args:
            images: The images that are to be converted.
            total: Their number, and that of the npz cases.

        Raises:
            UserError: There is no image to convert, several for one label file, or the window is
                not understood.
        """
        for name in ("modality", "window", "labels"):
            if getattr(self, name) is not None and not images:
                raise UserError(
                    f"--{name} is for images that are not npz cases, which have theirs already; "
                    "leave it out, or give the original image"
                )
        if self.labels is not None and total > 1:
            raise UserError(
                f"--labels {self.labels}: belongs to one image and there are {total}; give the "
                "images one after the other"
            )
        if self.window is not None:
            rule_for_modality(self.modality, self._window)

    @property
    def _window(self) -> str | None:
        return None if self.window is None else self.window.replace(",", "/")

    def case(self, path: Path) -> Case:
        """Reads an image, and its labels, and applies the intensity rule.

        Args:
            path: Whatever ``read_volume`` reads.

        Raises:
            UserError: A file cannot be read, the labels do not fit, or the file states another
                modality.
        """
        volume = read_volume(path)
        modality = self.modality or volume.modality
        if volume.modality not in (None, modality):
            raise UserError(
                f"{path}: is {volume.modality} by its header, not {modality}; leave --modality out"
            )
        try:
            rule, _ = rule_for_image(volume.array, modality, self._window)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        labels = self._labels(path, volume)
        return Case(
            name=file_stem(path) if path.is_file() else path.name,
            image=apply_rule(volume.array, rule),
            label_maps=labels.maps,
            geometry=volume.geometry,
            modality=modality,
            label_names=labels.label_names,
            intensity=rule,
            is_video=volume.is_video,
        )

    def _labels(self, path: Path, volume: Volume) -> LabelVolume:
        if self.labels is None:
            return LabelVolume(())
        labels = read_labels(self.labels, like=volume)
        return on_image_grid(volume, labels, str(path), str(self.labels))
