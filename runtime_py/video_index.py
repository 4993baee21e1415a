"""A video file's frames without decoding one: which there are, when each is shown, and where decoding has to begin for it.

A *packet* is one coded frame, in decode order; B-frames make that order differ from display order. A *tick* is one unit of the
stream's time base. Pictures that no decoder shows are not frames: packets outside an mp4's edit list, and what stands before the
first keyframe (or is shown before it, and so refers to pictures of a part that was cut away).
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from export.errors import VideoError

CONVERT = "convert it first, for example: ffmpeg -i {} -c:v libx264 video.mp4"
EBML_HEADER, MATROSKA_SEGMENT = 0x1A45DFA3, 0x18538067
MP4_BOXES = (b"moov", b"mdat", b"moof", b"mfra")
TEXT_ART = "tty"  # the demuxer that takes any .txt for a film of text


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """A packet where decoding can begin. `dts` is None where the container holds no decode times."""

    position: int
    pts: int
    dts: int | None


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """Every frame of a video in display order: `pts` in ticks, `positions` of its packet in decode order."""

    pts: list[int]
    positions: list[int]
    keyframes: list[Keyframe]  # in decode order
    time_base: Fraction  # seconds a tick
    end: int  # ticks: when the last frame's time is over
    declared_fps: float | None  # what the container says; an estimate from the first frames in some formats
    damage: str | None  # what stopped the demuxer before the end

    @property
    def duration_s(self) -> float:
        return self.seconds(self.end - self.pts[0])

    def seconds(self, ticks: int) -> float:
        """The nearest float, so that frame 1 of 10 fps is at 0.1 exactly and a span that starts at 0.1 has it."""
        return ticks * self.time_base.numerator / self.time_base.denominator

    def time_s(self, frame: int) -> float:
        """When a frame is shown, from the first frame on (whose own timestamp need not be 0)."""
        return self.seconds(self.pts[frame] - self.pts[0])

    def span(self, start_s: float, end_s: float) -> range:
        """The frames with start_s <= time < end_s."""
        first, last = (bisect.bisect_left(range(len(self.pts)), limit, key=self.time_s) for limit in (start_s, end_s))
        return range(first, max(first, last))

    def fps(self, frames: range) -> float:
        """Average frames a second of a span: its frames over their time on screen.

        Where this differs from the declared rate by no more than the rounding of timestamps (a millisecond in mkv), the
        declared rate is the exact one.
        """
        end = self.end if frames.stop == len(self.pts) else self.pts[frames.stop]
        ticks = end - self.pts[frames.start]
        declared = self.declared_fps
        if declared and abs(len(frames) / declared - self.seconds(ticks)) <= self.seconds(2):
            return declared
        return len(frames) / self.seconds(ticks) if ticks > 0 else declared or 1.0

    def keyframe_for(self, frame: int) -> int:
        """Number of the keyframe from which a frame decodes: the last one that neither follows it nor is shown after it.

        A frame that is coded after a keyframe but shown before it (open GOP) also refers to the group before.
        """
        number = self.keyframe_number_at(self.positions[frame])
        while number > 0 and self.keyframes[number].pts > self.pts[frame]:
            number -= 1
        return number

    def keyframe_number_at(self, position: int) -> int:
        """Number of the last keyframe at or before a packet, the first one where there is none."""
        return max(0, bisect.bisect_right(self.keyframes, position, key=lambda keyframe: keyframe.position) - 1)

    def nearest(self, pts: int) -> int:
        """The frame whose timestamp is nearest to `pts`."""
        after = bisect.bisect_left(self.pts, pts)
        return min((i for i in (after - 1, after) if 0 <= i < len(self.pts)), key=lambda i: abs(self.pts[i] - pts))


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file for reading and choose its video stream (never a cover picture); the others are not even read."""
    try:
        if not path.exists():
            raise VideoError(f"{path} does not exist: give the path of a video file")
        if not path.is_file():
            raise VideoError(f"{path} is not a file: give the path of a video file")
        if path.stat().st_size == 0:
            raise VideoError(f"{path} is empty: record, copy or download the video again")
        # The prefix keeps a colon in the name from being read as a protocol; titles need not be UTF-8.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}): give a video file that can") from error
    except av.FFmpegError as error:
        raise VideoError(_why_unreadable(path)) from error
    stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if stream is None or container.format.name == TEXT_ART:
        container.close()
        raise VideoError(f"{path} has no video in it{'' if stream else ' (only sound, pictures or text)'}: give another file")
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"the video in {path} has a format that this build of ffmpeg cannot decode: {CONVERT.format(path)}")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return container, stream


def build_index(container: InputContainer, stream: VideoStream, path: Path) -> FrameIndex:
    """Read all packets once, from the container's beginning."""
    shown: list[tuple[int, int, int]] = []  # (pts, position, duration)
    keyframes: list[Keyframe] = []
    position, damage = 0, None
    packets = real_packets(container, stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            damage = error.strerror
            break
        if packet is None:
            break
        if packet.pts is None:
            raise VideoError(f"the video in {path} has no timestamps: {CONVERT.format(path)}")
        if packet.is_keyframe and not packet.is_corrupt:
            keyframes.append(Keyframe(position, packet.pts, packet.dts))
        if not packet.is_discard and not packet.is_corrupt:  # corrupt: its bytes end in the middle
            shown.append((packet.pts, position, packet.duration or 0))
        position += 1
    in_decode_order = all(a[0] < b[0] for a, b in itertools.pairwise(shown))
    if container.format.name == "avi" and stream.codec_context.has_b_frames and in_decode_order:
        raise VideoError(f"the timestamps in {path} ignore B-frames, as H.264 in an avi often does: {CONVERT.format(path)}")
    if keyframes:
        first = keyframes[0]
        shown = [entry for entry in shown if entry[0] >= first.pts and entry[1] >= first.position]
    elif shown:  # no packet is marked: then only the beginning is sure
        keyframes = [Keyframe(0, min(shown)[0], None)]
    if not shown:
        raise VideoError(f"{path} holds no whole frame: record, copy or download the video again")
    shown.sort()
    pts = [entry[0] for entry in shown]
    last_ticks = shown[-1][2] or (pts[-1] - pts[-2] if len(pts) > 1 else 0)
    declared = float(stream.average_rate) if stream.average_rate else None
    return FrameIndex(pts, [entry[1] for entry in shown], keyframes, stream.time_base, pts[-1] + last_ticks, declared, damage)


def real_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's packets from where the container stands, without empty ones (which would end decoding)."""
    return (packet for packet in container.demux(stream) if packet.size)


def ends_early(path: Path) -> bool:
    """Whether an mp4, mov, mkv or webm says that it is longer than the file is; False for what cannot be told."""
    size = path.stat().st_size
    if _is_mp4(path):
        # Only of known boxes: some cameras append bytes of their own that are none.
        return any(start + length > size for kind, start, length in _mp4_boxes(path) if kind in MP4_BOXES)
    segment_end = _matroska_segment_end(path)
    return segment_end is not None and segment_end > size


def _why_unreadable(path: Path) -> str:
    if _is_mp4(path) and not any(kind == b"moov" for kind, _, _ in _mp4_boxes(path)):
        return f"{path} is cut off: the table of its frames (moov), which stands at the end, is missing; record, copy or download it again"
    return f"{path} is not a video that can be read: give an mp4, mov, mkv or webm file"


def _is_mp4(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")


def _mp4_boxes(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Top-level boxes (kind, start, length in bytes), up to the first that makes no sense."""
    size, start = path.stat().st_size, 0
    with open(path, "rb") as file:
        while start < size:
            file.seek(start)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:  # 64-bit length follows
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # up to the end of the file
                length = size - start
            if length < 8:
                return
            yield kind, start, length
            start += length


def _matroska_segment_end(path: Path) -> int | None:
    """Where the segment of an mkv or webm should end, in bytes; None for other files and for live recordings."""
    with open(path, "rb") as file:
        header = file.read(4096)
    start = 0
    for element in (EBML_HEADER, MATROSKA_SEGMENT):
        if int.from_bytes(header[start : start + 4], "big") != element or len(header) < start + 5:
            return None
        width = 9 - header[start + 4].bit_length()  # bytes of the length field: leading zeros of its first byte + 1
        field = int.from_bytes(header[start + 4 : start + 4 + width], "big")
        length = field & ((1 << 7 * width) - 1)
        if width > 8 or length == (1 << 7 * width) - 1:  # all ones: unknown
            return None
        start += 4 + width + (length if element == EBML_HEADER else 0)
    return start + length
