from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

av = pytest.importorskip("av")

from attendet.errors import DataError  # noqa: E402
from attendet.media import Frame, read_frames  # noqa: E402
from attendet.media.sources import Skipped, Source  # noqa: E402
from attendet.media.video import VideoWriter, open_video  # noqa: E402

MakeVideo = Callable[..., Path]


def _left_of_square(frame: Frame) -> int:
    return int(np.flatnonzero(frame.image[30, :, 0] > 128)[0])


# --- reading -----------------------------------------------------------------------------------


def test_frames_come_in_order_with_their_numbers_and_times(make_video: MakeVideo) -> None:
    frames = list(read_frames(make_video(frames=12)))

    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 25 for n in range(12)])
    assert [_left_of_square(frame) for frame in frames] == [4 * n for n in range(12)]
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[0].image.dtype == np.uint8
    assert {frame.total for frame in frames} == {12}
    assert frames[3].name == "street/000003"


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names")
def test_a_name_with_a_colon_in_the_current_folder(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video("12:30.mp4", frames=2)
    monkeypatch.chdir(path.parent)

    assert len(list(read_frames(path.name))) == 2


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts", "webm"])
def test_other_containers_are_read_too(make_video: MakeVideo, suffix: str) -> None:
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"

    frames = list(read_frames(make_video(f"a.{suffix}", frames=6, codec=codec)))

    assert [_left_of_square(frame) for frame in frames] == [4 * n for n in range(6)]


def test_times_of_a_video_of_varying_rate_are_kept(make_video: MakeVideo) -> None:
    times = [5.0, 5.04, 5.08, 7.0, 7.5]

    frames = list(read_frames(make_video(frames=5, times=times)))

    assert [frame.seconds for frame in frames] == pytest.approx([t - 5 for t in times], abs=1e-4)


def test_every_nth_frame_keeps_its_number_and_time(make_video: MakeVideo) -> None:
    frames = list(read_frames(make_video(frames=12), every=5))

    assert [frame.index for frame in frames] == [0, 5, 10]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.2, 0.4])
    assert frames[0].total == 3


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),  # as a phone held upright writes it
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    ],
    ids=["clockwise", "upside down", "anticlockwise"],
)
def test_a_video_is_turned_as_its_container_says(
    make_video: MakeVideo,
    matrix: tuple[int, int, int, int],
    turned: Callable[[np.ndarray], np.ndarray],
) -> None:
    path = make_video(frames=2)
    plain = next(read_frames(path)).image
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # ISO 14496-12: the matrix of version 0 stands here
    a, b, c, d = (value * 0x10000 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)

    np.testing.assert_array_equal(next(read_frames(path)).image, turned(plain))


def test_reading_stops_where_the_reader_does(make_video: MakeVideo) -> None:
    frames = read_frames(make_video(frames=60))

    next(frames)
    frames.close()

    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_memory_stays_flat_however_long_the_video(make_video: MakeVideo) -> None:
    path = make_video(frames=90, image_hw=(480, 640))
    code = (
        "import resource, sys\n"
        "from attendet.media import read_frames\n"
        "count = 0\n"
        "for frame in read_frames(sys.argv[1], ahead=4):\n"
        "    count += 1\n"
        "    if count == 20: early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(count, (late - early) // 1024)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )

    count, grown_mib = map(int, result.stdout.split())
    assert count == 90
    assert grown_mib < 20  # 70 frames more are 62 MiB


# --- bad input ---------------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[Frame], list[Skipped]]:
    skipped: list[Skipped] = []
    return list(read_frames(path, on_skip=skipped.append)), skipped


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_truncated_video_is_read_to_its_end_and_reported(
    make_video: MakeVideo, name: str
) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = make_video(name, frames=250, options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])

    frames, skipped = _read(path)

    assert 50 < len(frames) < 240
    assert [_left_of_square(frame) for frame in frames[:50]] == [(4 * n) % 72 for n in range(50)]
    assert len(skipped) == 1
    assert skipped[0].frames == len(frames)
    assert str(path) in skipped[0].reason
    assert "\n" not in skipped[0].reason


def test_a_video_without_its_index_is_one_clear_line(make_video: MakeVideo) -> None:
    path = make_video(frames=50)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    frames, skipped = _read(path)

    assert frames == []
    assert "video cannot be read" in skipped[0].reason
    with pytest.raises(DataError, match="video cannot be read"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.mp4", None, "No such file"),
        ("empty.mp4", b"", "cannot be read"),
        ("text.mp4", b"words, no video at all\n" * 100, "cannot be read"),
        ("noise.mkv", bytes(range(256)) * 40, "cannot be read"),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n", "video"),
    ],
    ids=["missing", "empty", "text", "noise", "playlist"],
)
def test_what_is_no_video_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    frames, skipped = _read(path)

    assert frames == []
    assert len(skipped) == 1
    assert words in skipped[0].reason
    assert str(path) in skipped[0].reason
    assert "\n" not in skipped[0].reason


def test_a_file_of_sound_alone_holds_no_images(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 800), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))

    assert "must contain a video stream; got none" in _read(path)[1][0].reason


def test_a_whole_video_of_few_long_frames_does_not_end_early(tmp_path: Path) -> None:
    path = tmp_path / "lapse.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 5))
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame(96, 64, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    frames, skipped = _read(path)

    assert [frame.seconds for frame in frames] == [0, 5, 10, 15, 20, 25]
    assert skipped == []


def test_damage_in_the_middle_costs_frames_and_is_reported(make_video: MakeVideo) -> None:
    path = make_video("a.mkv", frames=100, codec="mpeg4")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = os.urandom(400)
    path.write_bytes(content)

    frames, skipped = _read(path)

    assert len(frames) > 40
    assert all(frame.image.shape == (64, 96, 3) for frame in frames)
    assert len(skipped) <= 1


def test_the_rest_is_read_after_a_broken_video(make_video: MakeVideo, tmp_path: Path) -> None:
    good, bad = make_video("b.mp4", frames=3), tmp_path / "a.mp4"
    bad.write_bytes(b"no video")
    skipped: list[Skipped] = []

    frames = list(read_frames([bad, good], on_skip=skipped.append))

    assert [frame.name for frame in frames] == ["b/000000", "b/000001", "b/000002"]
    assert [one.path for one in skipped] == [str(bad)]


def test_a_frame_of_too_many_pixels_is_refused(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attendet.media.video.MAX_PIXELS", 1000)
    source = Source("a", make_video(frames=2), "video")

    with (
        pytest.raises(DataError, match="at most 1000 pixels per frame; got 96 x 64"),
        open_video(source),
    ):
        pass


# --- writing -----------------------------------------------------------------------------------


def _decode(path: Path) -> tuple[list[np.ndarray], list[float], str, str]:
    """Read a video with PyAV alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        images = [frame.to_ndarray(format="rgb24") for frame in frames]
        times = [float(frame.time) for frame in frames]
        return images, times, stream.codec_context.name, stream.codec_context.pix_fmt


def test_a_written_video_is_h264_with_the_colors_and_times_given(tmp_path: Path) -> None:
    colors = [(220, 40, 40), (30, 180, 60), (40, 60, 210), (128, 128, 128)]
    times = [0.0, 0.04, 1.0, 1.5]
    writer = VideoWriter(tmp_path / "a.part")
    for color, seconds in zip(colors, times, strict=True):
        writer.write(np.full((48, 64, 3), color, dtype=np.uint8), seconds)
    writer.close()

    images, written, codec, layout = _decode(tmp_path / "a.part")
    assert (codec, layout) == ("h264", "yuv420p")
    assert written == pytest.approx(times, abs=1e-4)
    for image, color in zip(images, colors, strict=True):
        assert abs(image.astype(int) - color).max() <= 6
    with av.open(str(tmp_path / "a.part")) as container:
        assert container.streams.video[0].codec_context.colorspace == 1  # BT.709, and says so


def test_odd_sides_are_made_even_and_other_sizes_letterboxed(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(np.full((31, 47, 3), 200, dtype=np.uint8), 0.0)
    writer.write(np.full((31, 94, 3), 200, dtype=np.uint8), 0.1)
    writer.close()

    images = _decode(tmp_path / "a.mp4")[0]
    assert [image.shape for image in images] == [(32, 48, 3)] * 2
    assert images[0].min() > 190
    assert abs(int(images[1][2, 24, 0]) - 114) < 12
    assert abs(int(images[1][16, 24, 0]) - 200) < 12


def test_a_large_video_is_scaled_down_on_request(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", max_side=64)
    writer.write(np.zeros((100, 200, 3), dtype=np.uint8), 0.0)
    writer.close()

    assert _decode(tmp_path / "a.mp4")[0][0].shape == (32, 64, 3)


def test_frames_of_one_time_stay_in_order(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    for _ in range(3):
        writer.write(np.zeros((32, 32, 3), dtype=np.uint8), 1.0)
    writer.close()

    times = _decode(tmp_path / "a.mp4")[1]
    assert times == sorted(set(times))


def test_frames_that_the_encoder_refuses_are_an_error_of_that_file(tmp_path: Path) -> None:
    too_wide = np.zeros((32, 16_500, 3), dtype=np.uint8)  # libx264 ends at 16384

    with (
        pytest.raises(OSError, match=r"with frames of 16500 x 32: '.*a\.mp4'"),
        VideoWriter(tmp_path / "a.mp4") as writer,
    ):
        writer.write(too_wide, 0.0)


def test_an_encoder_that_fails_at_the_end_is_an_error_of_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise av.error.ExternalError(-542398533, "Generic error in an external library")

    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(np.zeros((32, 64, 3), dtype=np.uint8), 0.0)
    monkeypatch.setattr(writer, "_stream", SimpleNamespace(encode=broken))

    with pytest.raises(OSError, match=r"external library, with frames of 64 x 32: '.*a\.mp4'"):
        writer.close()
