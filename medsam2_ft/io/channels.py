"""One channel, or one time point, of a 4-D volume."""

from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import file_suffix
from medsam2_ft.types import Volume


def read_channel(path: Path, channel: int) -> Volume:
    """Reads one channel of a NIfTI, NRRD or MetaImage file.

    Args:
        path: The file; one of three axes has one channel.
        channel: Which one, from 0.

    Returns:
        The volume ``(z, y, x)``, scaled as the header says.

    Raises:
        UserError: As ``read_volume``; another format, or no such channel.
    """
    suffix = file_suffix(path)
    if suffix in (".nii", ".nii.gz"):
        from medsam2_ft.io.nifti import read_nifti_layers

        layers, geometry = read_nifti_layers(path)
    elif suffix in (".nrrd", ".nhdr", ".mha", ".mhd"):
        from medsam2_ft.io.itk import read_layers

        layers, geometry, _ = read_layers(path, fourth_axis=True)
    else:
        raise UserError(
            f"{path}: channels of {suffix or 'a folder'} cannot be chosen; leave --channel out, or "
            "save the image as NIfTI, NRRD or MetaImage"
        )
    count = layers.shape[-1]
    if not 0 <= channel < count:
        raise UserError(f"{path}: has no channel {channel}; its {count} are 0 to {count - 1}")
    return Volume(layers[..., channel].copy(), geometry)  # a view would keep all channels alive
