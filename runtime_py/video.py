"""From a video file to the frames that the model samples: upright uint8 RGB, decoded from the nearest keyframe only.

Frames are counted as decoded, in display order. Those that `pick_frames` asks for are decoded, with what their group of pictures
needs; nothing else is, however long the video. Pixels are what ffmpeg makes of them: the stream's colour matrix and range are
honoured, an unspecified matrix is BT.601 and an unspecified range is limited (full for RGB and the old `yuvj` formats). HDR is not
tone-mapped and non-square pixels are not stretched, as in the release.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from export.config import FRAMES
from export.errors import VideoError
from export.model.preprocess import pick_frames
from runtime_py.video_index import FrameIndex, Keyframe, build_index, ends_early, open_video, real_packets

FAR_BACK = 300  # packets: the longest group of pictures that common encoders make by default is 250


@dataclasses.dataclass(frozen=True)
class VideoFrames:
    """The sampled frames of a video, or of a span of it.

    frames: uint8 RGB [height, width, 3] each, upright; indices: their numbers within the span, counted as decoded; times_s: seconds
    from the video's first frame; fps: average over the span; total: frames in the span; width, height: pixels, after rotation;
    codec: ffmpeg's name of it (h264, hevc, vp9, av1, ...); warnings: one line each, for the user, empty where all went well.
    """

    frames: list[np.ndarray]
    indices: list[int]
    times_s: list[float]
    fps: float
    total: int
    width: int
    height: int
    codec: str
    warnings: list[str]


def read_frames(path: str | Path, start_s: float | None = None, end_s: float | None = None, frames: int = FRAMES) -> VideoFrames:
    """Sample up to `frames` frames of a video file, by the release's rule, from those with start_s <= time < end_s (seconds).

    A frame that cannot be decoded is replaced by its nearest neighbour, with a warning, and so is a file that ends early.
    Raises VideoError, one line, for a file that is no video or holds no decodable frame, and for a span without frames.
    """
    path = Path(path)
    with FrameReader(path) as reader:
        index = reader.index
        span = _span(path, index, start_s, end_s)
        fps = index.fps(span)
        picked = [span.start + i for i in pick_frames(len(span), fps, frames)]
        found = reader.read(picked)
        codec = reader.codec
    warnings = _warnings(path, index, lost=sum(number != wanted for (number, _), wanted in zip(found, picked)), picked=len(picked))
    height, width = found[0][1].shape[:2]
    return VideoFrames(
        frames=[image for _, image in found],
        indices=[number - span.start for number, _ in found],
        times_s=[index.time_s(number) for number, _ in found],
        fps=fps,
        total=len(span),
        width=width,
        height=height,
        codec=codec,
        warnings=warnings,
    )


class FrameReader:
    """An open video: `index` knows its frames, `read` decodes some of them; `decoded` counts the frames that this took."""

    def __init__(self, path: Path):
        self.path = path
        self.decoded = 0
        self._one_thread = False  # with more, frames that wait in the decoder are lost when another one fails
        self._open()
        try:
            self.codec = self._stream.codec_context.codec.canonical_name
            self.index = build_index(self._container, self._stream, path)
        except BaseException:
            self.close()
            raise
        self._keyframe_positions = {keyframe.pts: keyframe.position for keyframe in self.index.keyframes}
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._position = -1  # of the packet that the decoder takes next
        self._ahead: av.VideoFrame | None = None  # decoded already, and later than what was asked for

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self.path)
        self._stream.thread_type = "AUTO"
        self._stream.thread_count = 1 if self._one_thread else 0  # 0: as many as there are processors

    def read(self, numbers: list[int]) -> list[tuple[int, np.ndarray]]:
        """Frames by ascending number, as (number, upright RGB); a lost frame gives way to its nearest neighbour, with its number."""
        found: list[tuple[int, np.ndarray] | None] = []
        for number in numbers:
            frame = self._frame(number)
            found.append(frame and (self.index.nearest(frame.pts), _upright_rgb(frame)))
        decoded = [i for i, frame in enumerate(found) if frame]
        if not decoded:
            raise VideoError(f"no frame of {self.path} can be decoded ({self.codec}): record, copy or download the video again")
        return [frame or found[min(decoded, key=lambda j: abs(j - i))] for i, frame in enumerate(found)]

    def _frame(self, number: int) -> av.VideoFrame | None:
        """The frame of this number; where it is lost the nearest one that decodes; None where none does.

        A frame that does not come from its keyframe may come from an earlier one: some streams (intra refresh) mark pictures
        as keyframes after which a decoder still needs a while, and some files mark too many.
        """
        index, wanted = self.index, self.index.pts[number]
        nearest_keyframe = index.keyframe_for(number)
        if index.keyframes[nearest_keyframe].position > self._position:
            self._go_to(index.keyframes[nearest_keyframe])
        neighbours = self._decode_up_to(wanted)
        if neighbours and neighbours[-1].pts == wanted:
            return neighbours[-1]
        self._one_thread = True
        far_back = index.keyframe_number_at(index.positions[number] - FAR_BACK)
        for keyframe in sorted({nearest_keyframe, max(0, nearest_keyframe - 1), far_back}, reverse=True):
            self._go_to(index.keyframes[keyframe])
            neighbours += self._decode_up_to(wanted)
            if neighbours and neighbours[-1].pts == wanted:
                return neighbours[-1]
        return min(neighbours, key=lambda frame: abs(frame.pts - wanted), default=None)

    def _decode_up_to(self, wanted: int) -> list[av.VideoFrame]:
        """Decode on to the timestamp `wanted`: the last frame before it, where there is one, and the first at or after it."""
        before: list[av.VideoFrame] = []
        ahead, self._ahead = self._ahead, None
        for frame in itertools.chain([ahead] if ahead else [], self._frames):
            if frame.pts >= wanted:
                self._ahead = frame if frame.pts > wanted else None
                return [*before, frame]
            before = [frame]
        return before

    def _go_to(self, keyframe: Keyframe) -> None:
        """Let decoding begin at a keyframe, or at an earlier one where the container's seek leads there."""
        self._ahead = None
        if self._one_thread and self._stream.codec_context.thread_count != 1:
            self.close()
            self._open()
        for ticks in (keyframe.pts, keyframe.dts):  # containers differ in which of the two their seek compares
            if ticks is None:
                continue
            try:
                self._container.seek(ticks, stream=self._stream)
                packets = real_packets(self._container, self._stream)
                first = next(packets, None)
            except av.FFmpegError:
                continue
            position = self._keyframe_positions.get(first.pts) if first else None
            if position is not None and position <= keyframe.position:
                self._position, self._frames = position, self._decode(itertools.chain([first], packets))
                return
        self.close()
        self._open()
        self._position, self._frames = 0, self._decode(real_packets(self._container, self._stream))

    def _decode(self, packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
        """Frames in display order; packets that do not decode are passed over, and a demuxer's error is the end."""
        decoder = self._stream.codec_context
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            try:
                frames = decoder.decode(packet)
            except av.FFmpegError:
                frames = []
            self._position += 1
            self.decoded += len(frames)
            yield from (frame for frame in frames if frame.pts is not None)
            if packet is None:
                return


def _span(path: Path, index: FrameIndex, start_s: float | None, end_s: float | None) -> range:
    start = 0.0 if start_s is None else start_s
    end = math.inf if end_s is None else end_s
    if not start >= 0:
        raise VideoError(f"the start of the span is {start:g} s: give one from 0 on")
    if not start < end:
        raise VideoError(f"the span from {start:g} s to {end:g} s is empty: give an end after the start")
    if start >= index.duration_s and start > index.time_s(len(index.pts) - 1):
        raise VideoError(f"the span starts at {start:g} s, but {path} is {index.duration_s:.3f} s long: give an earlier start")
    span = index.span(start, end)
    if not span:
        raise VideoError(f"no frame of {path} is shown from {start:g} s to {end:g} s (it is {index.duration_s:.3f} s long): widen the span")
    return span


def _warnings(path: Path, index: FrameIndex, lost: int, picked: int) -> list[str]:
    warnings = []
    if index.damage or ends_early(path):
        warnings.append(f"{path} ends early, it was cut off or damaged: what stands in its first {index.duration_s:.1f} s is used")
    if lost:
        warnings.append(f"{lost} of {picked} frames of {path} could not be decoded: their nearest neighbours are used")
    return warnings


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 RGB [height, width, 3] of a frame as it is coded."""
    return frame.to_ndarray(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """The same, turned and mirrored as the frame's display matrix says."""
    image = rgb(frame)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift; angles between are taken for the nearest right one.
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if abs(b) > abs(a):
            image, a, d = image.transpose(1, 0, 2), c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)
