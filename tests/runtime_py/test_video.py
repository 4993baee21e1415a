"""Frames from real files, made here with every codec and container that is promised, against decoding everything in order."""

import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from export.errors import VideoError
from export.model.preprocess import pick_frames
from runtime_py.video import FrameReader, read_frames

WIDTH, HEIGHT = 96, 64
CLOSED_GOP = {"g": "12", "bf": "3"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:scenecut=0:bframes=3"}
HEVC = {"x265-params": "log-level=none:keyint=12:bframes=3:open-gop=1"}


def draw(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture that no other number has: a shade, a moving bar, and grain."""
    image = np.add.outer(np.arange(height), np.arange(width))[..., None] + np.array([20, 60, 40])
    image[:, (number * 5) % width :][:, :6] = (230, (number * 37) % 256, 30)
    image += np.random.default_rng(number).integers(0, 30, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_video(
    path: Path,
    count=40,
    codec="libx264",
    options=CLOSED_GOP,
    fps=24,
    pts=None,
    ticks=None,
    pix_fmt="yuv420p",
    draw=draw,
    mux=None,
    rotate=None,
) -> Path:
    """Encode `count` pictures; `pts` are in units of 1/`ticks` s (1/fps by default), `mux` are the container's options."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        first = draw(0)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], pix_fmt
        time_base = Fraction(1, ticks) if ticks else 1 / Fraction(fps)
        stream.codec_context.time_base = time_base
        if rotate is not None:
            stream.set_display_rotation(**rotate)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame in order, as a player shows them."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24", interpolation=Interpolation.BICUBIC) for frame in container.decode(video=0)]


def remux_from(source: Path, target: Path, skip: int) -> Path:
    """The same packets without the first `skip`."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in itertools.islice((p for p in reader.demux(video=0) if p.size), skip, None):
            packet.stream = stream
            writer.mux(packet)
    return target


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """(offset in the file, bytes, whether a keyframe) of each packet in decode order."""
    data, found, offset = path.read_bytes(), [], 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                offset = data.index(bytes(packet), offset)
                found.append((offset, packet.size, packet.is_keyframe))
    return found


IRREGULAR_PTS = list(np.cumsum([0] + [7, 40, 33, 120, 1, 500, 33, 34] * 5)[:40].tolist())
CASES = {
    "closed gop with b-frames": ("v.mp4", {}),
    "open gop with b-frames": ("v.mp4", {"options": OPEN_GOP}),
    "mov": ("v.mov", {}),
    "h264 mkv": ("v.mkv", {"options": OPEN_GOP}),
    "fragmented": ("v.mp4", {"mux": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}),
    "intra refresh": ("v.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}}),
    "variable rate": ("v.mkv", {"pts": IRREGULAR_PTS, "ticks": 1000}),
    "variable rate mp4": ("v.mp4", {"pts": IRREGULAR_PTS, "ticks": 1000, "options": OPEN_GOP}),
    "starts late": ("v.mp4", {"pts": list(range(1000, 1040))}),
    "starts late mkv": ("v.mkv", {"pts": list(range(1000, 1040))}),
    "one frame": ("v.mp4", {"count": 1}),
    "five frames": ("v.mp4", {"count": 5}),
    "sixteen candidates": ("v.mp4", {"count": 48, "fps": 3}),
    "all keyframes": ("v.mp4", {"options": {"g": "1"}}),
    "one keyframe": ("v.mp4", {"count": 90, "options": {"g": "1000", "bf": "3", "sc_threshold": "0"}}),
    "hevc mp4": ("v.mp4", {"codec": "libx265", "options": HEVC}),
    "hevc mkv": ("v.mkv", {"codec": "libx265", "options": HEVC}),
    "vp9 webm": ("v.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime"}}),
    "vp9 hidden frames": ("v.webm", {"codec": "libvpx-vp9", "options": {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16"}}),
    "av1 mp4": ("v.mp4", {"codec": "libsvtav1", "options": {"preset": "12", "g": "12"}}),
    "av1 webm": ("v.webm", {"codec": "libsvtav1", "options": {"preset": "12", "g": "12"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_picked_frames_are_those_of_a_full_decode(case, tmp_path):
    name, options = CASES[case]
    path = make_video(tmp_path / name, **options)
    everything = decode_all(path)
    assert len(everything) == options.get("count", 40)

    video = read_frames(path)
    assert (video.total, video.warnings) == (len(everything), [])
    assert video.indices == pick_frames(len(everything), video.fps)
    for index, frame in zip(video.indices, video.frames, strict=True):
        assert np.array_equal(frame, everything[index]), f"frame {index}"
    assert (video.width, video.height) == (WIDTH, HEIGHT)


ONE_BY_ONE = ["open gop with b-frames", "variable rate mp4", "h264 mkv", "hevc mp4", "vp9 webm", "av1 mp4", "intra refresh"]


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_each_frame_alone_is_that_of_a_full_decode(case, tmp_path):
    name, options = CASES[case]
    path = make_video(tmp_path / name, **options)
    for number, expected in enumerate(decode_all(path)):
        with FrameReader(path) as reader:
            ((index, frame),) = reader.read([number])
        assert index == number
        assert np.array_equal(frame, expected), f"frame {number}"


@pytest.mark.parametrize(("codec", "options", "name"), [("libx264", OPEN_GOP, "v.mp4"), ("libx265", HEVC, "v.mkv")])
@pytest.mark.parametrize("before_keyframe", [0, 4])
def test_a_cut_inside_a_video_leaves_no_frame_that_cannot_be_shown(codec, options, name, before_keyframe, tmp_path):
    whole = make_video(tmp_path / f"whole_{name}", codec=codec, options=options)
    second_keyframe = [i for i, (_, _, key) in enumerate(packets(whole)) if key][1]
    path = remux_from(whole, tmp_path / name, second_keyframe - before_keyframe)
    everything = decode_all(path)
    assert 0 < len(everything) < 40 - second_keyframe + 1
    video = read_frames(path)
    assert (video.total, video.warnings) == (len(everything), [])
    assert all(np.array_equal(frame, everything[index]) for index, frame in zip(video.indices, video.frames, strict=True))


def test_an_hour_is_sampled_without_decoding_it(tmp_path):
    path = make_video(tmp_path / "hour.mp4", count=3600, fps=1, options={"g": "20", "bf": "2", "preset": "ultrafast"})
    video = read_frames(path)
    assert (video.total, video.fps) == (3600, 1.0)
    assert video.indices == np.linspace(0, 3599, 16).astype(int).tolist()
    assert video.times_s == [float(i) for i in video.indices]
    with FrameReader(path) as reader:
        reader.read(video.indices)
        assert reader.decoded < 16 * (20 + 64)  # a group of pictures for each, and what a threaded decoder reads ahead


def test_neighbouring_frames_share_one_decoding_run(tmp_path):
    path = make_video(tmp_path / "v.mp4", count=60, options={"g": "60", "bf": "0", "sc_threshold": "0"})
    with FrameReader(path) as reader:
        reader.read(list(range(0, 60, 4)))
        assert reader.decoded <= 60


@pytest.mark.parametrize("case", ["mkv", "mp4"])
@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25, 2), Fraction(15, 2), 30])
def test_fps_is_the_declared_one_where_the_rate_is_constant(case, fps, tmp_path):
    video = read_frames(make_video(tmp_path / f"v.{case}", count=31, fps=fps))
    assert video.fps == pytest.approx(float(fps), rel=1e-12)


@pytest.mark.parametrize("case", ["mkv", "mp4"])
def test_fps_of_a_variable_rate_is_the_average(case, tmp_path):
    slow_then_fast = [i * 500 for i in range(20)] + [10_000 + i * 20 for i in range(100)]  # 10 s at 2 fps, 2 s at 50 fps
    path = make_video(tmp_path / f"v.{case}", count=120, pts=slow_then_fast, ticks=1000)
    assert read_frames(path).fps == pytest.approx(120 / 12, rel=0.01)
    assert read_frames(path, end_s=10).fps == pytest.approx(2, rel=0.01)
    assert read_frames(path, start_s=10).fps == pytest.approx(50, rel=0.02)  # the encoder gives the last frame 1/24 s


def test_a_span_counts_from_its_own_first_frame(tmp_path):
    path = make_video(tmp_path / "v.mp4", count=100, fps=10, pts=list(range(70, 170)))
    everything = decode_all(path)
    video = read_frames(path, start_s=2.1, end_s=4.3)  # frame 21, at 2.1 s, is in; frame 43, at 4.3 s, is not
    assert (video.total, video.fps) == (22, 10.0)
    assert video.indices == pick_frames(22, 10.0)
    assert video.times_s == pytest.approx([2.1 + i / 10 for i in video.indices], abs=1e-9)
    assert all(np.array_equal(frame, everything[21 + i]) for i, frame in zip(video.indices, video.frames, strict=True))
    assert read_frames(path, start_s=9.85, end_s=99).total == 1
    assert read_frames(path, end_s=0.05).total == 1


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((3, 3), "give an end after the start"),
        ((4, 3), "give an end after the start"),
        ((None, 0), "give an end after the start"),
        ((-1, None), "give one from 0 on"),
        ((float("nan"), None), "give one from 0 on"),
        ((4, None), "4.000 s long"),
        ((9, 12), "4.000 s long"),
        ((1.01, 1.05), "widen the span"),
    ],
)
def test_an_impossible_span_is_explained(span, message, tmp_path):
    path = make_video(tmp_path / "v.mp4", fps=10)
    with pytest.raises(VideoError, match=message) as error:
        read_frames(path, *span)
    assert "\n" not in str(error.value)


def corners(number: int) -> np.ndarray:
    """Four grey corners, told apart: 40 80 over 120 200."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, left = slice(None, HEIGHT // 2), slice(None, WIDTH // 2)
    bottom, right = slice(HEIGHT // 2, None), slice(WIDTH // 2, None)
    image[top, left], image[top, right], image[bottom, left], image[bottom, right] = 40, 80, 120, 200
    return image


@pytest.mark.parametrize("mirror", [{}, {"hflip": True}, {"vflip": True}])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("name", ["v.mp4", "v.mov"])
def test_a_turned_video_comes_out_upright(degrees, mirror, name, tmp_path):
    path = make_video(tmp_path / name, count=3, draw=corners, rotate={"degrees": degrees, **mirror})
    upright = np.rot90(corners(0), degrees // 90)  # counter-clockwise, both; mirrored after it
    upright = upright[:: -1 if "vflip" in mirror else 1, :: -1 if "hflip" in mirror else 1]
    video = read_frames(path)
    assert (video.height, video.width) == upright.shape[:2]
    for frame in video.frames:
        assert frame.flags.c_contiguous
        assert np.abs(frame.astype(int) - upright).mean() < 3


def test_a_portrait_recording_of_a_phone_comes_out_upright(tmp_path):
    """The bytes that phones write: the track header's matrix (0 1 / -1 0) says to turn clockwise by 90 degrees."""
    path = make_video(tmp_path / "v.mp4", count=3, draw=corners)
    data = bytearray(path.read_bytes())
    identity = b"".join(n.to_bytes(4, "big", signed=True) for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    clockwise = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30))
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + 36] = clockwise
    path.write_bytes(data)
    video = read_frames(path)
    assert (video.height, video.width) == (WIDTH, HEIGHT)
    assert np.abs(video.frames[0].astype(int) - np.rot90(corners(0), -1)).mean() < 3


MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (5, 0.299, 0.114), "bt2020": (9, 0.2627, 0.0593), None: (2, 0.299, 0.114)}
COLOURS = [(126, 84, 200), (90, 180, 100), (200, 120, 130), (60, 110, 140)]  # Y, Cb, Cr of 8 bits


def yuv_to_rgb(colour, kr: float, kb: float, full: bool) -> np.ndarray:
    """The textbook's formula."""
    y, cb, cr = colour
    y, chroma = (y / 255, 255) if full else ((y - 16) / 219, 224)
    cb, cr = (cb - 128) / chroma, (cr - 128) / chroma
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.array([red, green, blue]) * 255, 0, 255)


def make_flat_video(path: Path, colour, space: int, colour_range: int, bits: int = 8) -> Path:
    """One colour, coded without loss, with the given tags."""
    pix_fmt, dtype = {8: ("yuv420p", np.uint8), 10: ("yuv420p10le", np.uint16)}[bits]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = space, colour_range
        planes = [np.full(size, value << (bits - 8), dtype) for size, value in zip((64 * 48, 32 * 24, 32 * 24), colour, strict=True)]
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(72, 64), format=pix_fmt)
            frame.colorspace, frame.color_range = space, colour_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("colour_range", ["limited", "full", None])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colour_matrix_and_range_are_honoured(matrix, colour_range, bits, tmp_path):
    space, kr, kb = MATRICES[matrix]
    for number, colour in enumerate(COLOURS):
        path = make_flat_video(tmp_path / f"{number}.mp4", colour, space, {None: 0, "limited": 1, "full": 2}[colour_range], bits)
        frame = read_frames(path).frames[0]
        assert frame.dtype == np.uint8
        expected = yuv_to_rgb(colour, kr, kb, full=colour_range == "full")
        # ffmpeg's fast path for 10 bits is off by 3; a wrong matrix or range by 8 and more in one of these colours
        assert np.abs(frame - expected).max() < 3.5, (colour, frame[0, 0], expected)


def test_ten_bit_hevc(tmp_path):
    path = make_video(tmp_path / "v.mp4", codec="libx265", options=HEVC, pix_fmt="yuv420p10le")
    everything = decode_all(path)
    video = read_frames(path)
    assert video.codec == "hevc"
    assert all(np.array_equal(frame, everything[i]) for i, frame in zip(video.indices, video.frames, strict=True))
    assert np.abs(video.frames[0].astype(int) - draw(0)).mean() < 12


@pytest.mark.parametrize(("case", "codec"), [("closed gop with b-frames", "h264"), ("vp9 webm", "vp9"), ("av1 mp4", "av1")])
def test_the_codec_is_named_as_ffmpeg_names_it(case, codec, tmp_path):
    name, options = CASES[case]
    assert read_frames(make_video(tmp_path / name, **options)).codec == codec


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patch_codec_tag(path: Path) -> Path:
    """Declare a codec that ffmpeg knows by name and has no decoder for."""
    path.write_bytes(path.read_bytes().replace(b"avc1", b"evc1"))
    return path


def text_file(path: Path) -> Path:
    path.write_text("a line of text\n" * 300)
    return path


def touch(path: Path) -> Path:
    path.touch()
    return path


def without_index(path: Path) -> Path:
    """Cut off before the moov atom, which an interrupted recording never wrote."""
    data = make_video(path).read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    return path


BAD_FILES = {
    "text": (lambda d: text_file(d / "v.mp4"), "is not a video"),
    "text that ffmpeg would draw": (lambda d: text_file(d / "v.txt"), "has no video in it"),
    "empty": (lambda d: touch(d / "v.mp4"), "is empty"),
    "missing": (lambda d: d / "v.mp4", "does not exist"),
    "folder": (lambda d: d, "is not a file"),
    "only sound": (lambda d: write_sound(d / "v.mp4"), "has no video in it"),
    "no index": (lambda d: without_index(d / "v.mp4"), "is cut off: .*moov"),
    "unknown codec": (lambda d: patch_codec_tag(make_video(d / "v.mp4")), "cannot decode: convert it"),
    "no timestamps": (lambda d: make_video(d / "v.h264"), "has no timestamps: convert it"),
    "avi with b-frames": (lambda d: make_video(d / "v.avi"), "ignore B-frames.*convert it"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_video_is_explained_in_one_line(case, tmp_path):
    make, message = BAD_FILES[case]
    with pytest.raises(VideoError, match=message) as error:
        read_frames(make(tmp_path))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


TRUNCATED = {
    "index in front": ("v.mp4", {"movflags": "faststart"}),
    "fragmented": ("v.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mkv": ("v.mkv", {}),
    "webm": ("v.webm", {}),
}


@pytest.mark.parametrize("share", [0.55, 0.8, 0.999])
@pytest.mark.parametrize("case", TRUNCATED)
def test_what_is_left_of_a_truncated_file_is_used(case, share, tmp_path):
    name, mux = TRUNCATED[case]
    codec, options = ("libvpx-vp9", {"g": "12", "deadline": "realtime"}) if case == "webm" else ("libx264", {"g": "12", "bf": "0"})
    whole = make_video(tmp_path / f"whole_{name}", count=60, codec=codec, options=options, mux=mux)
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    everything = decode_all(whole)
    video = read_frames(path)
    assert len(video.warnings) == 1
    assert "ends early" in video.warnings[0]
    assert 10 < video.total <= 60
    assert share > 0.99 or video.total < 60 * (share + 0.15)
    assert video.indices == pick_frames(video.total, video.fps)
    assert all(np.array_equal(frame, everything[i]) for i, frame in zip(video.indices, video.frames, strict=True))


@pytest.mark.parametrize(("case", "name"), [("closed gop with b-frames", "v.mp4"), ("hevc mkv", "v.mkv"), ("av1 mp4", "v.mp4")])
def test_packets_that_do_not_decode_give_way_to_their_neighbours(case, name, tmp_path):
    options = {**CASES[case][1], "count": 72}
    path = make_video(tmp_path / name, **options)
    everything = decode_all(path)
    data = bytearray(path.read_bytes())
    spots = packets(path)
    keyframes = [i for i, (_, _, key) in enumerate(spots) if key]
    for offset, size, _ in spots[keyframes[2] : keyframes[3]]:  # a whole group of pictures
        data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    video = read_frames(path)
    assert len(video.frames) == len(video.indices) == len(video.times_s) == 16
    assert len(video.warnings) == 1
    assert "could not be decoded" in video.warnings[0]
    assert video.indices == sorted(video.indices)
    good = [i for i, index in enumerate(video.indices) if index < 20]
    assert good
    assert all(np.array_equal(video.frames[i], everything[video.indices[i]]) for i in good)


def test_a_video_whose_every_packet_is_damaged_is_an_error(tmp_path):
    path = make_video(tmp_path / "v.mp4")
    data = bytearray(path.read_bytes())
    for offset, size, _ in packets(path):
        data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(VideoError, match="no frame of .* can be decoded"):
        read_frames(path)


def test_random_damage_never_crashes(tmp_path):
    rng = np.random.default_rng(7)
    for name in ("v.mp4", "v.mkv"):
        whole = make_video(tmp_path / name).read_bytes()
        for _ in range(25):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
            (tmp_path / name).write_bytes(data[: int(len(data) * rng.uniform(0.3, 1))].tobytes())
            try:
                video = read_frames(tmp_path / name)
            except VideoError as error:
                assert "\n" not in str(error)
            else:
                assert len(video.frames) == len(video.indices) == len(video.times_s) >= 1


def test_sound_and_a_cover_picture_are_passed_over(tmp_path):
    silent = make_video(tmp_path / "silent.mp4")
    path = tmp_path / "v.mp4"
    with av.open(str(silent)) as reader, av.open(str(path), "w") as writer:
        sound = writer.add_stream("aac", rate=16000, layout="mono")
        cover = writer.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        video = writer.add_stream_from_template(reader.streams.video[0])
        writer.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        writer.mux(sound.encode(frame))
        writer.mux(sound.encode(None))
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = video
                writer.mux(packet)
    everything = decode_all(silent)
    result = read_frames(path)
    assert (result.total, result.codec, result.warnings) == (40, "h264", [])
    assert all(np.array_equal(frame, everything[i]) for i, frame in zip(result.indices, result.frames, strict=True))


def test_odd_names_are_names(tmp_path):
    path = make_video(tmp_path / "v.mp4")
    odd = path.rename(tmp_path / "http: 50%d été.mp4")
    assert read_frames(str(odd)).total == 40


def test_ffmpeg_stays_silent_on_damaged_files(tmp_path):
    path = make_video(tmp_path / "v.mp4", mux={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 900] = b"\x55" * 900
    path.write_bytes(data[: len(data) * 4 // 5])
    program = "import sys; from runtime_py.video import read_frames; assert read_frames(sys.argv[1]).warnings"
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_sample_clip_in_the_repository_is_the_drawn_one():
    from calibration.sample_clip import DEFAULT_OUT, draw_frames

    assert DEFAULT_OUT.stat().st_size <= 250_000
    video = read_frames(DEFAULT_OUT)
    drawn = list(draw_frames())
    assert (video.total, video.fps, video.width, video.height, video.codec) == (len(drawn), 24.0, 320, 240, "h264")
    for index, frame in zip(video.indices, video.frames, strict=True):
        assert np.abs(frame.astype(int) - drawn[index]).mean() < 3
