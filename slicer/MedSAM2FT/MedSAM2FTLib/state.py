"""What the controller remembers and what the panel shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .geometry import ijk_to_lps
from .masks import Grid
from .remote import RemoteSession
from .steps import Patch
from .worker import Report

OFFLINE = "offline"
CONNECTED = "connected"
OPENING = "opening"
READY = "ready"
WORKING = "working"
PROPAGATING = "propagating"

Request = Callable[[RemoteSession, Report, Callable[[], bool]], Any]
"""Gets the session, a function to report with, and one that says whether it was cancelled."""
Then = Callable[[Any], None]
Again = Callable[[], None]


@dataclass(frozen=True)
class Choice:
    """What is segmented, and how.

    Attributes:
        volume_id: Node of the volume.
        frame: Of a sequence.
        window: ``lower, upper`` that become black and white; None lets the model choose.
        modality: See docs/protocol.md.
        model: None is the server's default.
        strategy: ``box``, ``memory``, or None for the model's own.
    """

    volume_id: str
    frame: Optional[int] = None
    window: Optional[tuple[float, float]] = None
    modality: Optional[str] = None
    model: Optional[str] = None
    strategy: Optional[str] = None

    def to_json(self, grid: Grid, shape: Sequence[int], dtype: str) -> dict[str, Any]:
        """Returns the body of POST /sessions."""
        return {
            "kind": "volume",
            "model": self.model,
            "shape": list(shape),
            "dtype": dtype,
            "window": None if self.window is None else list(self.window),
            "modality": self.modality,
            "strategy": self.strategy,
            "ijk_to_lps": ijk_to_lps(grid.ijk_to_ras),
        }


@dataclass
class Status:
    """What the panel shows.

    Attributes:
        state: One of the names above.
        message: For the user, one line.
        failed: Whether the message is an error.
        done: Slices or chunks that are through.
        total: Of how many; 0 where nothing is counted.
        eta_s: Seconds that are left.
    """

    state: str = OFFLINE
    message: str = "Start a server (medsam2-ft serve), then press Test."
    failed: bool = False
    done: int = 0
    total: int = 0
    eta_s: Optional[float] = None


@dataclass
class Doing:
    """The request that runs.

    Attributes:
        task: Its number in the background.
        then: Gets the result.
        rest: State to which a failure returns.
        again: Asks it once more, where the session is lost; None where it must not be.
        drawn: What was drawn by hand and the server has not heard of yet.
        patches: What a propagation has changed so far.
    """

    task: int
    then: Then
    rest: str
    again: Optional[Again] = None
    drawn: list[Patch] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
