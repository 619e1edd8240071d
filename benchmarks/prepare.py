"""Seconds, memory and bytes of preparing one CT with labels, against the plain way.

    python benchmarks/prepare.py [--image FILE --labels FILE] [--shape 300 512 512] [--json OUT]

The plain way: SimpleITK reads, numpy windows in float64, scipy.ndimage.label finds the objects,
numpy.savez_compressed writes. Both run on one core, each in a process of its own. The floor is what
cannot be left out: the source inflated once and the arrays of the case deflated once, by ISA-L.
Without ``--image`` the chest CT of slicerio is enlarged and given the noise of its new resolution.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its own name for itself)
from isal import igzip, isal_zlib
from scipy import ndimage

NOISE_HU = 18.0
ORGANS = 3
SUFFIXES = (".nii.gz", ".nrrd")
WINDOW_HU = (-160.0, 240.0)


def generate(folder: Path, shape: tuple[int, int, int]) -> tuple[Path, Path]:
    """Writes the chest CT at another resolution, with three organs, as NIfTI."""
    import slicerio

    source = Path(slicerio.__file__).parent / "data"
    small = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "CTChest4.nrrd")))
    segments = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "Segmentation.seg.nrrd")))
    body = ndimage.find_objects((small > -300).astype(np.uint8))[0]
    small, segments = small[body].clip(-1024, 3071).astype(np.float32), segments[body]
    rng = np.random.default_rng(0)
    image, labels = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    factors = [new / old for new, old in zip(shape[1:], small.shape[1:], strict=True)]
    for z in range(shape[0]):
        old_z = z * small.shape[0] // shape[0]
        noise = ndimage.gaussian_filter(rng.normal(size=shape[1:]), 0.6)
        plane = ndimage.zoom(small[old_z], factors, order=1) + noise * (NOISE_HU / noise.std())
        image[z] = plane.clip(-1024, 3071).round()
        for label in range(1, ORGANS + 1):
            mask = (segments[old_z] == label + 4).astype(np.float32)
            labels[z][ndimage.zoom(mask, factors, order=1) > 0.5] = label
    paths = folder / "images" / "CT.nii.gz", folder / "labels" / "CT.nii.gz"
    for path, array in zip(paths, (image, labels), strict=True):
        path.parent.mkdir()
        write(array, path, (0.78, 0.78, 1.0))
    return paths


def write(array: np.ndarray, path: Path, spacing: tuple[float, ...]) -> None:
    """Writes a volume, compressed."""
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing)
    sitk.WriteImage(volume, str(path), True)


def convert(source: Path, target: Path) -> Path:
    """Writes a volume in another format."""
    sitk.WriteImage(sitk.ReadImage(str(source)), str(target), True)
    return target


def ours(image: Path, labels: Path, out: Path) -> None:
    """``medsam2-ft prepare``, with small objects dropped, so that components are found."""
    from medsam2_ft.prepare import prepare

    prepare(image, labels, out, modality="CT", min_voxels_3d=100, val_share=0.0, workers=1)


def plain(image: Path, labels: Path, out: Path) -> None:
    """What a script does."""
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).astype(np.float64)
    label_map = sitk.GetArrayFromImage(sitk.ReadImage(str(labels)))
    low, high = WINDOW_HU
    gray = np.uint8(np.rint((np.clip(values, low, high) - low) / (high - low) * 255))
    for label in np.unique(label_map)[1:]:
        components, _ = ndimage.label(label_map == label, np.ones((3, 3, 3)))
        small = np.bincount(components.ravel()) < 100
        label_map[small[components]] = 0
    out.mkdir()
    np.savez_compressed(out / "CT.npz", imgs=gray, gts=label_map, spacing=(0.78, 0.78, 1.0))


def run_alone(way: str, image: Path, labels: Path, out: Path) -> dict[str, float]:
    """Runs one way in a fresh process on one core."""
    command = [sys.executable, __file__, "--way", way]
    paths = ["--image", str(image), "--labels", str(labels), "--out", str(out)]
    one = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    done = subprocess.run(
        command + paths, env=os.environ | one, stdout=subprocess.PIPE, check=True, text=True
    )
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    written = sum(file.stat().st_size for file in out.rglob("*.npz"))
    return numbers | {"written_mib": written / 2**20}


def one_way(way: str, image: Path, labels: Path, out: Path) -> None:
    """Prints seconds and peak memory of one way; imports are not part of the seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import medsam2_ft.io.npz
    import medsam2_ft.prepare  # noqa: F401

    start_s = time.perf_counter()
    {"ours": ours, "plain": plain}[way](image, labels, out)
    seconds = time.perf_counter() - start_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak * unit / 2**20}))


def floor(image: Path, labels: Path, case: Path) -> dict[str, float]:
    """Seconds to inflate gzipped sources and to deflate the arrays of the case, no more."""
    numbers = {"read_mib": sum(p.stat().st_size for p in (image, labels)) / 2**20}
    start_s = time.perf_counter()
    for path in (image, labels):
        with igzip.open(path) as stream:
            while stream.read(1 << 24):
                pass
    numbers["inflate_s"] = time.perf_counter() - start_s
    numbers["deflate_s"] = numbers["deflated_mib"] = 0.0
    with np.load(case) as stored:
        for array in (stored["imgs"], stored["gts"]):
            start_s = time.perf_counter()
            isal_zlib.compress(array.reshape(-1), 2)
            numbers["deflate_s"] += time.perf_counter() - start_s
            numbers["deflated_mib"] += array.nbytes / 2**20
    numbers["seconds"] = numbers["inflate_s"] + numbers["deflate_s"]
    return numbers


def check_equal(first: Path, second: Path) -> None:
    """Both ways must have made the same image and labels."""
    with np.load(first) as a, np.load(second) as b:
        for key in ("imgs", "gts"):
            off = np.abs(a[key].astype(np.int16) - b[key]).max()
            assert off <= (key == "imgs"), f"{key} differ by {off}"  # float32 against float64


def measure(image: Path, labels: Path, folder: Path) -> dict[str, Any]:
    """Measures both ways on both formats."""
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    result["shape_zyx"] = sitk.ReadImage(str(image)).GetSize()[::-1]
    for suffix in SUFFIXES:
        place = folder / suffix.strip(".")
        place.mkdir()
        files = convert(image, place / f"CT{suffix}"), convert(labels, place / f"CT_seg{suffix}")
        result[suffix] = {way: run_alone(way, *files, place / way) for way in ("plain", "ours")}
        (case,) = (place / "ours").rglob("*.npz")
        check_equal(case, place / "plain" / "CT.npz")
        if suffix == ".nii.gz":
            result[suffix]["floor"] = floor(*files, case)
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"one CT of {result['shape_zyx']} with labels, one core")
    print(f"{'':18}{'seconds':>10}{'peak (MiB)':>12}{'npz (MiB)':>12}")
    for suffix in SUFFIXES:
        for way in ("plain", "ours"):
            row = result[suffix][way]
            print(f"{f'{suffix} {way}':18}{row['seconds']:10.2f}", end="")
            print(f"{row['peak_mib']:12.0f}{row['written_mib']:12.1f}")
    low = result[".nii.gz"]["floor"]
    print(f"{'.nii.gz floor':18}{low['seconds']:10.2f}", end="   ")
    print(f"{low['read_mib']:.0f} MiB inflated in {low['inflate_s']:.2f} s", end=", ")
    print(f"{low['deflated_mib']:.0f} MiB deflated in {low['deflate_s']:.2f} s")


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="a CT in Hounsfield units")
    parser.add_argument("--labels", type=Path, help="its labels")
    parser.add_argument("--shape", type=int, nargs=3, default=[300, 512, 512])
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--way", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        one_way(args.way, args.image, args.labels, args.out)
        return
    if (args.image is None) != (args.labels is None):
        parser.error("give --image and --labels, or neither")
    with tempfile.TemporaryDirectory() as folder:
        paths = args.image, args.labels
        if args.image is None:
            paths = generate(Path(folder), tuple(args.shape))
        result = measure(*paths, Path(folder))
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
