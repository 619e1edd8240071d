"""A decoding plugin for pydicom: JPEG, JPEG-LS and JPEG 2000 through imagecodecs.

Not through GDCM, whose wrapper (measured with python-gdcm 3.2) aborts the process on a damaged
JPEG-LS or JPEG 2000 codestream. The form of the plugin is pydicom's:
https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

import imagecodecs
from pydicom.pixels.decoders.base import Decoder, DecodeRunner
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from medsam2_ft.io.dicom.codestream import jpeg2000_start

LABEL = "medsam2_ft"
SYNTAXES = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("imagecodecs",))  # pydicom asks for the name


def is_available(uid: str) -> bool:
    """Whether the plugin decodes a transfer syntax; asked by pydicom."""
    return uid in SYNTAXES


def add_to(decoder: Decoder) -> None:
    """Gives a decoder of pydicom the plugin, once."""
    if decoder.UID in SYNTAXES and LABEL not in decoder.available_plugins:
        decoder.add_plugin(LABEL, (__name__, "decode_frame"))


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decodes one frame to samples that lie pixel by pixel; called by pydicom.

    Raises:
        RuntimeError: The codestream is damaged; as imagecodecs raises it.
    """
    syntax = runner.transfer_syntax
    if syntax in JPEGLSTransferSyntaxes:
        array = imagecodecs.jpegls_decode(src)
    elif syntax in JPEGTransferSyntaxes:
        # samples as they are stored: pydicom turns YBR into RGB
        space = {"RGB": "RGB", "YBR": "YCBCR"}.get(str(runner.photometric_interpretation)[:3])
        is_gray = runner.samples_per_pixel == 1
        space = None if is_gray else space
        array = imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space)
    else:
        array = imagecodecs.jpeg2k_decode(src[jpeg2000_start(src) :])
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")  # openjpeg turned it back
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * array.dtype.itemsize)
    return bytearray(array.tobytes())
