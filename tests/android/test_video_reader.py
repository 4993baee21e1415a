"""Core's reader of videos, run on the JVM against a double of Android's extractor and decoder that plays what PyAV made of real files: it
must choose the frames that Python chooses and give the pixels that Python gives."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from export.model.preprocess import _shortest_side_and_crop
from runtime_py.video import read_frames
from tests.android.android_stubs import compile_stubs
from tests.android.toolchain import CORE, compile_kotlin, core_sources, json_jar, run_java, stdlib
from tests.runtime_py.test_video import CASES, OPEN_GOP, corners, make_video

pytestmark = pytest.mark.full

DOUBLE = Path(__file__).with_name("media_double")
SAMPLE = Path(__file__).parents[2] / "calibration/demo/sample.mp4"
STANDARDS = {1: 1, 5: 2, 6: 4, 9: 6}  # ffmpeg's number of a matrix: Android's
PICKED = [
    "closed gop with b-frames", "open gop with b-frames", "fragmented", "variable rate mp4", "starts late", "one frame", "five frames",
    "sixteen candidates", "all keyframes", "one keyframe", "hevc mp4", "vp9 webm",
]  # fmt: skip
FAR_APART = {  # a jump before each frame, some to pictures that are shown before their own group's keyframe
    "far apart in an open gop": ("v.mp4", {"count": 400, "fps": 2, "options": OPEN_GOP}),
    "far apart in a closed gop": ("v.mp4", {"count": 400, "fps": 2}),
    "a rate that rounds to even": ("v.mp4", {"count": 150, "fps": Fraction(5, 2)}),
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> list[Path]:
    """The classpath that runs the reader: the double stands before the stubs."""
    folder = tmp_path_factory.mktemp("reader")
    stubs = compile_stubs(folder / "stubs")
    sources = [*core_sources(), *(CORE / "android" / name for name in ("VideoReader.kt", "Decoder.kt", "Colours.kt"))]
    core = compile_kotlin(sources, [stubs, json_jar()], folder / "core")
    double = compile_kotlin(sorted(DOUBLE.glob("*.kt")), [core, stubs], folder / "double", warnings_as_errors=False)
    return [double, core, stubs, json_jar()]


@dataclasses.dataclass
class Recording:
    """What the double plays: the samples of a file in decode order, with their decoded planes."""

    folder: Path
    format: dict[str, object]
    samples: list[list[int]]  # time in us, whether a keyframe, the picture or -1

    @classmethod
    def of(cls, path: Path, folder: Path, layout: str = "nv12", **more) -> "Recording":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            tick = stream.time_base
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
            rate, mime = stream.average_rate, stream.codec_context.name
        with av.open(str(path)) as container:
            frames = {frame.pts: frame for frame in container.decode(video=0)}
        first = next(iter(frames.values()))
        folder.mkdir()
        with (folder / "planes.bin").open("wb") as out:
            for frame in frames.values():
                for plane, (width, height) in zip(frame.planes, _sizes(frame), strict=True):
                    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                    out.write(rows[:height, :width].tobytes())
        numbers = {pts: number for number, pts in enumerate(frames)}
        samples = [[int(pts * tick * 1_000_000), int(key), numbers.get(pts, -1)] for pts, key in packets]
        said = {"decoder.color-standard": STANDARDS.get(first.colorspace, 0), "decoder.color-range": {1: 2, 2: 1}.get(first.color_range, 0)}
        format = {"width": first.width, "height": first.height, "reorder": 4, "layout": layout, "track.mime": f"video/{mime}", **said}
        if rate and rate.denominator == 1:  # Android's extractors know whole rates
            format["track.frame-rate"] = int(rate)
        return cls(folder, {**format, **more}, samples)

    def write(self) -> Path:
        (self.folder / "format.txt").write_text("".join(f"{key} {value}\n" for key, value in self.format.items()))
        (self.folder / "samples.txt").write_text("".join(" ".join(map(str, sample)) + "\n" for sample in self.samples))
        return self.folder


def _sizes(frame: av.VideoFrame) -> list[tuple[int, int]]:
    half = (frame.width + 1) // 2, (frame.height + 1) // 2
    return [(frame.width, frame.height), half, half]


@dataclasses.dataclass
class Read:
    """What the reader wrote."""

    indices: list[int]
    fps: float
    total: int
    lost: int
    times_s: list[float]
    clips: np.ndarray  # [n, 224, 224, 3]
    squashed: np.ndarray


def read(classes: list[Path], *recordings: Recording) -> list[Read | str]:
    """Of each recording what was read, or the error's line."""
    ran = run_java("ReadVideoKt", *(str(recording.write()) for recording in recordings), classpath=[*classes, stdlib()])
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [_result(recording.folder) for recording in recordings]


def _result(folder: Path) -> Read | str:
    if (folder / "error.txt").exists():
        return (folder / "error.txt").read_text()
    indices, fps, total, lost, times = (folder / "numbers.txt").read_text().splitlines()
    images = [np.fromfile(folder / name, np.uint8).reshape(-1, 224, 224, 3) for name in ("clips.bin", "squashed.bin")]
    return Read([int(i) for i in indices.split()], float(fps), int(total), int(lost), [float(t) for t in times.split()], *images)


def expected(frames: list[np.ndarray]) -> list[np.ndarray]:
    """What both resizers make of whole frames."""
    import cv2

    return [
        np.stack([_shortest_side_and_crop(frame) for frame in frames]),
        np.stack([cv2.resize(frame, (224, 224), interpolation=cv2.INTER_LINEAR) for frame in frames]),
    ]


def assert_same_pixels(found: Read, frames: list[np.ndarray]) -> None:
    for ours, theirs in zip((found.clips, found.squashed), expected(frames), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.fixture(scope="module")
def cases(classes, tmp_path_factory):
    """All files at once: a Java machine takes a second to start."""
    folder = tmp_path_factory.mktemp("cases")
    paths = {"the sample clip": SAMPLE}
    for case, (name, options) in ({case: CASES[case] for case in PICKED} | FAR_APART).items():
        (folder / case).mkdir()
        paths[case] = make_video(folder / case / name, **options)
    layouts = ["nv12", "nv21", "i420"]
    recordings = [Recording.of(path, folder / f"{i}", layouts[i % 3]) for i, path in enumerate(paths.values())]
    return {case: (paths[case], found) for case, found in zip(paths, read(classes, *recordings), strict=True)}


@pytest.mark.parametrize("case", ["the sample clip", *PICKED, *FAR_APART])
def test_frames_and_pixels_are_python_s(case, cases):
    path, found = cases[case]
    assert not isinstance(found, str), found
    video = read_frames(path)
    assert (found.indices, found.total, found.lost) == (video.indices, video.total, 0)
    assert found.times_s == pytest.approx(video.times_s, abs=2e-6)
    assert_same_pixels(found, video.frames)


def test_a_turned_video_comes_out_upright_with_its_own_colours(classes, tmp_path):
    recordings, frames = [], []
    for degrees in (0, 90, 180, 270):
        path = make_video(tmp_path / f"{degrees}.mp4", count=3, draw=corners, rotate={"degrees": -degrees})  # of ffmpeg counter-clockwise
        recordings.append(Recording.of(path, tmp_path / f"{degrees}", **{"track.rotation-degrees": degrees}))
        frames.append(read_frames(path).frames)
    for found, whole in zip(read(classes, *recordings), frames, strict=True):
        assert_same_pixels(found, whole)


def test_what_the_container_says_of_colours_goes_before_the_decoder_s_guess(classes, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=3)
    guessed = {"decoder.color-standard": 1, "decoder.color-range": 2}
    said = {"track.color-standard": 4, "track.color-range": 2}
    plain, guess, both = read(
        classes,
        Recording.of(path, tmp_path / "plain", **{"decoder.color-standard": 0}),
        Recording.of(path, tmp_path / "guess", **guessed),
        Recording.of(path, tmp_path / "both", **guessed, **said),
    )
    assert np.array_equal(plain.clips, both.clips) and not np.array_equal(plain.clips, guess.clips)


def test_a_lost_picture_gives_way_to_its_nearest_neighbour(classes, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=48, fps=3, options=OPEN_GOP)
    recording = Recording.of(path, tmp_path / "lost")
    video = read_frames(path)
    times = sorted(sample[0] for sample in recording.samples)
    gone = [video.indices[5], video.indices[6]]  # neither follows a keyframe's own picture
    for sample in recording.samples:
        if times.index(sample[0]) in gone:
            sample[2] = -1
    (found,) = read(classes, recording)
    assert found.lost == 2
    differing = [i for i, (ours, theirs) in enumerate(zip(found.indices, video.indices, strict=True)) if ours != theirs]
    assert differing == [5, 6]
    assert all(abs(found.indices[i] - video.indices[i]) == 1 or found.indices[i] not in gone for i in differing)


def test_a_decoder_that_fails_on_a_picture_goes_on_behind_it(classes, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=48, fps=3)
    recording = Recording.of(path, tmp_path / "failing", fails="14")  # inside the second group of twelve
    (found,) = read(classes, recording)
    video = read_frames(path)
    assert found.lost > 0
    outside = [i for i, number in enumerate(video.indices) if not 12 <= number < 24]
    assert [found.indices[i] for i in outside] == [video.indices[i] for i in outside]
    images = expected(video.frames)[0]
    assert all(np.abs(found.clips[i].astype(int) - images[i]).max() <= 1 for i in outside)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"track.color-transfer": 6}, "VideoUnsupported: HDR"),
        ({"track.color-transfer": 7}, "VideoUnsupported: HDR"),
        ({"decoder.color-transfer": 7}, "VideoUnsupported: HDR"),
        ({"track.mime": "video/hevc", "track.profile": 2}, "VideoUnsupported: video with more than 8 bits"),
        ({"deep": 1}, "VideoUnsupported: video with more than 8 bits"),
        ({"track.mime": "video/none"}, "VideoUnsupported: video in the format"),
        ({"track.mime": "application/x"}, "NoVideoTrack: "),
        ({"fails": ",".join(map(str, range(100)))}, "VideoUnreadable: "),
    ],
)
def test_a_video_that_cannot_be_used_is_explained_in_one_line(more, line, classes, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=3)
    (found,) = read(classes, Recording.of(path, tmp_path / "bad", **more))
    assert isinstance(found, str) and found.startswith(line) and "\n" not in found


def test_a_file_that_is_none_is_explained(classes, tmp_path):
    (tmp_path / "none").mkdir()
    ran = run_java("ReadVideoKt", str(tmp_path / "none"), classpath=[*classes, stdlib()])
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "none/error.txt").read_text().startswith("VideoUnreadable: ")
