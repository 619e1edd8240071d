"""The released models of SAM and MedSAM, and a miniature for tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

_SAM_FOLDER: Final = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True)
class Baseline:
    """One model to compare with.

    Attributes:
        name: Our name for it.
        family: How images and masks are treated: ``sam`` or ``medsam``.
        encoder: Of the image: ``vit_b``, ``vit_l``, ``vit_h`` or ``tiny_test``.
        checkpoint: Name of its file in the checkpoint folder; None where nothing is released.
        url: Where the file is published.
        sha256: Checksum of the file, hexadecimal; None where none is published.
    """

    name: str
    family: Literal["sam", "medsam"]
    encoder: str
    checkpoint: str | None = None
    url: str = ""
    sha256: str | None = None


def _sam(encoder: str, checkpoint: str, sha256: str) -> Baseline:
    url = f"{_SAM_FOLDER}/{checkpoint}"
    return Baseline(f"sam_{encoder}", "sam", encoder, checkpoint, url, sha256)


_ALL: Final = (
    _sam(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    Baseline(
        "medsam_vit_b",
        "medsam",
        "vit_b",
        "medsam_vit_b.pth",
        "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
    ),
)
BASELINES: Final[Mapping[str, Baseline]] = {baseline.name: baseline for baseline in _ALL}
"""Released models by name."""

MINIATURES: Final[Mapping[str, Baseline]] = {
    "sam_tiny_test": Baseline("sam_tiny_test", "sam", "tiny_test"),
    "medsam_tiny_test": Baseline("medsam_tiny_test", "medsam", "tiny_test"),
}
"""Real models of the same classes with a 64-pixel input, for tests; random weights only."""
