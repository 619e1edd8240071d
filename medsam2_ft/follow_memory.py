"""Following by SAM2's own memory, as Meta's ``SAM2VideoPredictor`` does."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from medsam2_ft.features import Encoding, PromptTensors, Tracked
from medsam2_ft.follow import Follower, Prompted, in_order, kind_of, passes
from medsam2_ft.memory import FrameMemory, MemoryBank, joint_memory
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.sam2_adapter import Sam2


class MemoryFollower(Follower):
    """Follows objects with SAM2's memory, one bank per object.

    Args:
        model: Any SAM2.
        hw: Height and width of the frames.
        num_frames: Length of the volume.
        reset: Whether the backward half of a one-shot run starts from the prompted frames alone.
        remember: Keeps every frame, for sessions in which later prompts correct earlier masks: a
            prompt on a frame that was tracked then corrects its mask, and the frame is prompted
            from then on (Meta's ``add_all_frames_to_correct_as_cond``; without it, Meta's predictor
            overwrites a correction in the next sweep).
    """

    reads_ahead = True

    def __init__(
        self,
        model: Sam2,
        hw: tuple[int, int],
        num_frames: int,
        *,
        reset: bool = True,
        remember: bool = False,
    ) -> None:
        super().__init__(model, hw)
        self.num_frames = num_frames
        self.reset = reset
        self.remember = remember
        self.banks: dict[int, MemoryBank] = {}
        # The same for every frame and object, as long as size and dtype stay.
        self.position: Float[Tensor, "1 c h w"] | None = None

    def prompt(
        self, frame: int, encoding: Encoding, group: Sequence[Prompted]
    ) -> Float[Tensor, "n h w"]:
        """Segments objects as prompted; where the frame was tracked, memory and mask are read."""
        parts = []
        for positions, items in passes(group, lambda item: self._prompt_key(frame, *item)):
            banks = [self._bank(object_id) for object_id, _ in items]
            latest = [bank.latest(frame) for bank in banks]
            tensors = self.tensors(
                [prompt for _, prompt in items],
                [None if entry is None else entry.mask_logits for entry in latest],
            )
            tracked_before = frame in banks[0].tracked
            tracked = self._track(
                frame,
                encoding,
                banks if tracked_before else None,
                tensors,
                reverse=banks[0].tracked.get(frame, False),
            )
            for row, bank in enumerate(banks):
                bank.pending[frame] = self._entry(tracked, row, with_mask=True)
                if not self.remember:
                    bank.commit()
            parts.append((positions, tracked.mask_logits))
        return self.native(in_order(parts))

    def follow(
        self, frame: int, encoding: Encoding, object_ids: Sequence[int], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Segments objects from what is remembered of other frames."""
        parts = []
        # Objects whose memories hold the same frames share a pass.
        for positions, ids in passes(object_ids, lambda object_id: self.banks[object_id].key):
            banks = [self.banks[object_id] for object_id in ids]
            tracked = self._track(frame, encoding, banks, None, reverse=reverse)
            for row, bank in enumerate(banks):
                bank.add(frame, self._entry(tracked, row, with_mask=self.remember))
                if self.remember:
                    bank.tracked[frame] = reverse
            parts.append((positions, tracked.mask_logits))
        return self.native(in_order(parts))

    def prompted(self, frame: int, object_id: int) -> Float[Tensor, "1 h w"] | None:
        """What ``prompt`` made of an object in this frame."""
        bank = self.banks.get(object_id)
        entry = None if bank is None else bank.pending.get(frame, bank.prompted.get(frame))
        if entry is None or entry.mask_logits is None:
            return None
        return self.native(entry.mask_logits.to(self.model.device))

    def start_sweep(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Lets the sweep read the prompts since the last one."""
        for object_id in object_ids:
            self.banks[object_id].commit()

    def visited(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Notes that a sweep has passed a prompted frame: the next prompt there corrects."""
        for object_id in object_ids if self.remember else ():
            self.banks[object_id].tracked[frame] = reverse

    def turn_back(self) -> None:
        """Returns to the prompted frames, and forgets the sweep forward if so asked."""
        for bank in self.banks.values():
            bank.turn_back(reset=self.reset)

    def shrink(self, frame: int, max_bytes: int) -> None:
        """Forgets unprompted frames, the farthest from ``frame`` first."""
        banks = list(self.banks.values())
        while sum(bank.nbytes for bank in banks) > max_bytes:
            if not max(banks, key=lambda bank: bank.nbytes).drop_farthest(frame):
                return

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Takes back the prompt of one frame, or an object as a whole."""
        if frame is None:
            self.banks.pop(object_id, None)
        elif object_id in self.banks:
            self.banks[object_id].forget(frame)

    def _bank(self, object_id: int) -> MemoryBank:
        return self.banks.setdefault(
            object_id,
            MemoryBank(
                self.model.memory_reach,
                bounded=not self.remember,
                keep_around_start=not self.reset and not self.remember,
            ),
        )

    def _prompt_key(self, frame: int, object_id: int, prompt: SlicePrompt) -> tuple[object, ...]:
        """What must be equal for prompts of one frame to share a pass."""
        bank = self._bank(object_id)
        entry = bank.latest(frame)
        known = entry is not None and entry.mask_logits is not None
        if frame not in bank.tracked:
            return kind_of(prompt), known, False, ((), ()), False
        return kind_of(prompt), known, True, bank.key, bank.tracked[frame]

    def _track(
        self,
        frame: int,
        encoding: Encoding,
        banks: Sequence[MemoryBank] | None,
        prompts: PromptTensors | None,
        *,
        reverse: bool,
    ) -> Tracked:
        memory = None
        if banks is not None and self.position is not None:
            memory = joint_memory(banks, self.position)
        tracked = self.model.track(
            encoding, frame, memory, prompts, num_frames=self.num_frames, reverse=reverse
        )
        self.position = tracked.memory_position if self.position is None else self.position
        return tracked

    def _entry(self, tracked: Tracked, row: int, *, with_mask: bool) -> FrameMemory:
        rows = slice(row, row + 1)
        features, logits = tracked.memory_features[rows], tracked.mask_logits[rows]
        if self.remember:  # a session holds many frames: off the accelerator
            features, logits = features.cpu(), logits.cpu()
        return FrameMemory(tracked.pointer[rows], features, logits if with_mask else None)
