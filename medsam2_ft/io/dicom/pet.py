"""PET values as standardised uptake values by body weight (SUV), where the header allows.

Source: the Quantitative Imaging Biomarkers Alliance's vendor-neutral pseudo-code for SUV,
https://qibawiki.rsna.org/index.php/Standardized_Uptake_Value_(SUV) (happy path).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from medsam2_ft.io.dicom.files import AnyTag, items, number, text

_PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x70531000, 0x70531009
_GE_CREATOR, _GE_SCAN_TIME = 0x00090010, 0x0009100D
TAGS: tuple[AnyTag, ...] = (
    "Units",
    "SUVType",
    "CorrectedImage",
    "DecayCorrection",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "PatientWeight",
    "RadiopharmaceuticalInformationSequence",
    _GE_CREATOR,
    _GE_SCAN_TIME,
    0x70530010,
    _PHILIPS_SUV,
    _PHILIPS_ACTIVITY,
)
_DAY_S = 86400.0
_LONGEST_DECAY_S = 7 * _DAY_S  # a start further back than this is a mistake or a changed date


@dataclass(frozen=True)
class PetFacts:
    """What the SUV of one PET file is computed from; None for what the file does not say.

    Attributes:
        units: ``BQML``, ``CNTS``, ``GML``, ...
        suv_type: ``BW`` or another normalisation, for ``GML``.
        is_corrected: Whether attenuation and decay are corrected.
        decay_correction: ``START``, ``ADMIN`` or ``NONE``.
        series_time: Date and time of the series.
        acquisition_time: Date and time at which this file's bed position was started.
        ge_scan_time: Date and time of the scan in GE's private element.
        injection_time: Date and time; of 1900-01-01 where only the time of day is known.
        dose_bq: Injected activity.
        half_life_s: Of the radionuclide.
        weight_kg: Of the patient.
        philips_suv: Factor from the stored counts to SUV.
        philips_activity: Factor from the stored counts to Bq/ml.
    """

    units: str
    suv_type: str
    is_corrected: bool
    decay_correction: str
    series_time: datetime | None
    acquisition_time: datetime | None
    ge_scan_time: datetime | None
    injection_time: datetime | None
    dose_bq: float | None
    half_life_s: float | None
    weight_kg: float | None
    philips_suv: float | None
    philips_activity: float | None


def facts_of(dataset: Dataset) -> PetFacts:
    """Collects the facts from a header.

    Raises:
        ValueError: A number that is none; as much as ``damaged_as_user_error`` handles.
    """
    drug = next(iter(items(dataset, "RadiopharmaceuticalInformationSequence")), Dataset())
    corrections = text(dataset, "CorrectedImage").split("\\")
    acquired = _moment(text(dataset, "AcquisitionDateTime"))
    return PetFacts(
        units=text(dataset, "Units"),
        suv_type=text(dataset, "SUVType"),
        is_corrected="ATTN" in corrections and "DECY" in corrections,
        decay_correction=text(dataset, "DecayCorrection"),
        series_time=_moment(text(dataset, "SeriesDate") + text(dataset, "SeriesTime")),
        acquisition_time=acquired
        or _moment(text(dataset, "AcquisitionDate") + text(dataset, "AcquisitionTime")),
        ge_scan_time=_moment(text(dataset, _GE_SCAN_TIME))
        if text(dataset, _GE_CREATOR) == "GEMS_PETD_01"
        else None,
        injection_time=_moment(text(drug, "RadiopharmaceuticalStartDateTime"))
        or _moment("19000101" + text(drug, "RadiopharmaceuticalStartTime")),
        dose_bq=number(drug, "RadionuclideTotalDose"),
        half_life_s=number(drug, "RadionuclideHalfLife"),
        weight_kg=number(dataset, "PatientWeight"),
        philips_suv=number(dataset, _PHILIPS_SUV),
        philips_activity=number(dataset, _PHILIPS_ACTIVITY),
    )


def _moment(value: str) -> datetime | None:
    """Reads ``YYYYMMDDHHMMSS.ffffff&ZZZZ``; None where date and hour are not both there.

    The time zone is left out: all moments of one file share it.
    """
    digits = value.split("+")[0].split("-")[0].replace(":", "")
    whole, _, fraction = digits.partition(".")
    if len(whole) < 10 or not whole.isdecimal():
        return None
    try:
        moment = datetime.strptime(whole.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
    except ValueError:  # the 31st of February, or a leap second
        return None
    return moment + timedelta(seconds=float(f"0.{fraction}") if fraction.isdecimal() else 0.0)


def suv_factor(series: Sequence[PetFacts]) -> tuple[float, str]:
    """Returns what the rescaled values of a series are multiplied by to be SUV, and a note.

    1 where the values stay as they are; the note then says which field is missing.
    """
    facts = series[0]
    if len({one.units for one in series}) > 1:
        return 1.0, _as_stored("its files differ in Units (0054,1001)")
    if facts.units == "GML":
        kind = facts.suv_type or "BW"
        return 1.0, f"PET values are SUV ({kind}) as stored"
    if facts.units == "CNTS" and facts.philips_suv:
        return facts.philips_suv, "PET values are SUV by body weight (the scanner's own factor)"
    to_activity = 1.0
    if facts.units == "CNTS" and facts.philips_activity:
        to_activity = facts.philips_activity
    elif facts.units != "BQML":
        return 1.0, _as_stored(f"Units (0054,1001) is {facts.units[:16] or 'missing'}, not BQML")
    decayed, problem = _decayed_dose(series)
    if problem:
        return 1.0, _as_stored(problem)
    if not facts.weight_kg or facts.weight_kg <= 0:
        return 1.0, _as_stored("PatientWeight (0010,1030) is missing")
    return to_activity * facts.weight_kg * 1000.0 / decayed, "PET values are SUV by body weight"


def _as_stored(problem: str) -> str:
    return f"PET values are as stored, not SUV: {problem}"


def _decayed_dose(series: Sequence[PetFacts]) -> tuple[float, str]:
    """Activity in Bq of the dose at the moment to which the image is decay-corrected."""
    facts = series[0]
    if not facts.is_corrected:
        return 0.0, "CorrectedImage (0028,0051) does not name both ATTN and DECY"
    if not facts.dose_bq or facts.dose_bq <= 0:
        return 0.0, "RadionuclideTotalDose (0018,1074) is missing"
    if facts.decay_correction == "ADMIN":
        return facts.dose_bq, ""
    if facts.decay_correction != "START":
        return 0.0, "DecayCorrection (0054,1102) is neither START nor ADMIN"
    if not facts.half_life_s or facts.half_life_s <= 0:
        return 0.0, "RadionuclideHalfLife (0018,1075) is missing"
    if facts.injection_time is None:
        return 0.0, "RadiopharmaceuticalStartTime (0018,1072) is missing"
    scan = _scan_time(series)
    if scan is None:
        return 0.0, "SeriesTime (0008,0031) and AcquisitionTime (0008,0032) are missing"
    elapsed = _elapsed_s(facts.injection_time, scan)
    if not 0 <= elapsed <= _LONGEST_DECAY_S:
        return 0.0, "the injection is not before the scan (0018,1078)"
    return facts.dose_bq * 2.0 ** (-elapsed / facts.half_life_s), ""


def _scan_time(series: Sequence[PetFacts]) -> datetime | None:
    """When the scan began: the series' time, unless the series was made after the acquisition.

    Then GE's own element says it, or the earliest file does.
    """
    acquired = [one.acquisition_time for one in series if one.acquisition_time is not None]
    earliest = min(acquired, default=None)
    begun = series[0].series_time
    if begun is None or (earliest is not None and begun > earliest):
        return series[0].ge_scan_time or earliest
    return begun


def _elapsed_s(injection: datetime, scan: datetime) -> float:
    """Seconds from injection to scan; an injection without date lies within the day before."""
    if injection.year == 1900:
        clock = (scan - datetime(scan.year, scan.month, scan.day)).total_seconds()
        started = (injection - datetime(1900, 1, 1)).total_seconds()
        return (clock - started) % _DAY_S
    return (scan - injection).total_seconds()
