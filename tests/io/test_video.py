"""Films: what goes in comes out, with its alpha, its colours, its rate and its sound; what cannot is refused."""

import gc
import json
import logging
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.video import VideoReader, VideoWriter, load_video, read_frames, save_video
from pellucid.layers import Layer, LayerStack, Meta

FRAMES, HEIGHT, WIDTH = 5, 47, 33  # odd sides on purpose: 4:2:0 colour must not cut them
LOSSLESS = [".apng", ".png", ".webp", ""]
WITH_ALPHA = [".mov", ".webm", *LOSSLESS]
PATCHES = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1), "grey": (0.5, 0.5, 0.5)}


def soft_disc() -> Tensor:
    """A disc with a soft rim that moves: alpha (T, 1, H, W), on 8-bit levels."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rims = [(16 - torch.hypot(x - 12.0 - 2 * t, y - 22.0)) / 6 for t in range(FRAMES)]
    return torch.stack(rims)[:, None].clamp(0, 1).mul(255).round().div(255)


def patches() -> Tensor:
    """Pure colours in bands, the same in each frame: (T, 3, H, W)."""
    bands = torch.tensor(list(PATCHES.values()))[torch.arange(HEIGHT) * len(PATCHES) // HEIGHT]
    return bands.T[None, :, :, None].expand(FRAMES, 3, HEIGHT, WIDTH).contiguous()


def noise(levels: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, levels + 1, (FRAMES, 3, HEIGHT, WIDTH), generator=generator).float() / levels


def film(pixels: Tensor, alpha: Tensor | None = None, fps: Fraction = Fraction(24), bit_depth: int = 8) -> LayerStack:
    return LayerStack((Layer("video", pixels, alpha),), fps=fps, meta=Meta(bit_depth=bit_depth))


def alpha_error(path: Path, alpha: Tensor) -> float:
    """Mean error of alpha on the 0-255 scale; a film that lost its alpha fails here."""
    layer = load_video(path).layers[0]
    assert layer.alpha is not None, "alpha was dropped"
    return float((layer.alpha - alpha).abs().mean() * 255)


def write_raw(path: Path, times: list[int], audio: bool = False, video: bool = True, rotate: int = 0) -> None:
    """A small H.264 film whose frame n is shown at times[n] / 24 s, made without our own writer."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream("libx264", rate=24, options={"crf": "1", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
            if rotate:
                stream.set_display_rotation(rotate)
        if audio:
            sound = container.add_stream("aac", rate=48000, layout="mono")
        if video:
            picture = np.zeros((48, 32, 3), np.uint8)
            picture[:24, :16] = 255  # white at the top left
            for time in times:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if audio:
            for index in range(10):
                tone = np.sin(np.arange(1024) / 20 + index).astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, index * 1024
                container.mux(sound.encode(frame))
            container.mux(sound.encode())


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_are_exact_also_below_transparent_pixels(tmp_path: Path, suffix: str) -> None:
    alpha = soft_disc()
    assert (alpha == 0).any()
    saved = film(noise(), alpha)
    loaded = load_video(save_video(saved, tmp_path / f"a{suffix}"))
    assert torch.equal(loaded.layers[0].rgba, saved.layers[0].rgba)
    assert loaded.fps == 24
    assert loaded.names == ("video",)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_equal_frames_stay_frames(tmp_path: Path, suffix: str) -> None:
    loaded = load_video(save_video(film(patches()), tmp_path / f"a{suffix}"))
    assert torch.equal(loaded.layers[0].pixels, (patches() * 255).round() / 255)
    assert loaded.layers[0].alpha is None


@pytest.mark.parametrize("suffix", [".apng", ""])
def test_16_bit_frames_stay_deep(tmp_path: Path, suffix: str) -> None:
    alpha = noise(65535)[:, :1]
    saved = film(noise(65535), alpha, bit_depth=16)
    loaded = load_video(save_video(saved, tmp_path / f"a{suffix}"))
    assert torch.equal(loaded.layers[0].rgba, saved.layers[0].rgba)
    assert loaded.meta.bit_depth == 16


def test_prores_keeps_alpha_and_colour(tmp_path: Path) -> None:
    path = save_video(film(patches(), soft_disc()), tmp_path / "a.mov")
    assert alpha_error(path, soft_disc()) < 0.05
    loaded = load_video(path)
    assert torch.equal((loaded.layers[0].alpha * 255).round(), (soft_disc() * 255).round())
    assert (loaded.layers[0].pixels - patches()).abs().mean() * 255 < 0.5
    assert loaded.layers[0].alpha.max() == 1.0


def test_vp9_keeps_alpha_and_colour(tmp_path: Path) -> None:
    path = save_video(film(patches(), soft_disc()), tmp_path / "a.webm")
    assert alpha_error(path, soft_disc()) < 0.5
    rows = [int((index + 0.5) * HEIGHT / len(PATCHES)) for index in range(len(PATCHES))]
    found = load_video(path).layers[0].pixels[:, :, rows].mean(dim=(0, 3)).T  # (patch, 3)
    assert torch.allclose(found, torch.tensor(list(PATCHES.values())).float(), atol=0.02)


def test_vp9_lossless_is_exact_in_alpha(tmp_path: Path) -> None:
    path = save_video(film(noise(), soft_disc()), tmp_path / "a.webm", lossless=True)
    assert alpha_error(path, soft_disc()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("suffix", "coarse", "fine"),
    [
        (".mov", {"bits_per_mb": 200}, {"bits_per_mb": 8000}),
        (".webm", {"crf": 50}, {"crf": 4}),
        (".mp4", {"crf": 50, "preset": "ultrafast"}, {"crf": 1}),
    ],
)
def test_settings_reach_the_encoder(tmp_path: Path, suffix: str, coarse: dict[str, int], fine: dict[str, int]) -> None:
    errors = []
    for name, options in (("coarse", coarse), ("fine", fine)):
        path = save_video(film(noise()), tmp_path / f"{name}{suffix}", **options)
        errors.append((load_video(path).layers[0].pixels - noise()).abs().mean())
    assert errors[1] < errors[0] * 0.9


def test_alpha_error_notices_dropped_alpha(tmp_path: Path) -> None:
    # The check itself must be able to fail: FFmpeg's own VP9 decoder gives the same film without alpha.
    path = save_video(film(patches(), soft_disc()), tmp_path / "a.webm")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert not any(component.is_alpha for component in frame.format.components)
    opaque = save_video(film(patches()), tmp_path / "b.webm")
    with pytest.raises(AssertionError, match="dropped"):
        alpha_error(opaque, soft_disc())


@pytest.mark.parametrize("suffix", [".mov", ".webm", ".mp4"])
def test_films_are_tagged_and_encoded_as_bt709(tmp_path: Path, suffix: str) -> None:
    red = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1).expand(2, 3, 48, 32).contiguous()
    path = save_video(film(red), tmp_path / f"a{suffix}")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)
    if suffix != ".webm":  # WebM's reader gives these two on the stream only
        assert (frame.color_primaries, frame.color_trc) == (1, 1)
    bits = frame.format.components[0].bits
    luma = np.frombuffer(frame.planes[0], np.uint8 if bits == 8 else np.uint16)[0] / 2 ** (bits - 8)
    assert luma == pytest.approx(16 + 219 * 0.2126, abs=1)  # BT.601 would give 16 + 219 * 0.299 = 81


def test_an_untagged_small_film_is_read_as_bt601(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_raw(path, [0])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, (81, 90, 240), strict=True):  # red after BT.601
            np.frombuffer(plane, np.uint8)[:] = value
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixel = load_video(path).layers[0].pixels[0, :, 16, 16]
    assert torch.allclose(pixel, torch.tensor([1.0, 0, 0]), atol=0.02)


@pytest.mark.parametrize("suffix", [*WITH_ALPHA, ".mp4"])
@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(25, 2)], ids=str)
def test_rates_survive(tmp_path: Path, suffix: str, fps: Fraction) -> None:
    if suffix == ".webp" and fps.denominator == 1001:
        pytest.skip("WebP counts milliseconds: five frames at 29.97 and at 30 are the same file")
    path = save_video(film(torch.rand(FRAMES, 3, 16, 16), fps=fps), tmp_path / f"a{suffix}")
    assert load_video(path).fps == fps


def test_mp4_refuses_alpha_and_takes_a_background(tmp_path: Path) -> None:
    stack = film(torch.zeros(2, 3, 16, 16), torch.full((2, 1, 16, 16), 0.5))
    with pytest.raises(FormatError, match=r"MP4 cannot hold alpha.*background.*\.mov.*\.webm.*\.webp.*folder"):
        save_video(stack, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
    loaded = load_video(save_video(stack, tmp_path / "a.mp4", background=torch.ones(3)))
    assert loaded.layers[0].alpha is None
    assert loaded.layers[0].pixels.mean() == pytest.approx(0.5, abs=0.01)


def test_mp4_of_odd_size_keeps_its_size_and_says_how(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_video(save_video(film(patches()), tmp_path / "a.mp4"))
    assert (loaded.height, loaded.width) == (HEIGHT, WIDTH)
    assert "33x47 is odd" in caplog.text
    assert (loaded.layers[0].pixels - patches()).abs().mean() < 0.01


def test_layers_are_composited_frame_by_frame(tmp_path: Path) -> None:
    below, light = torch.full((3, 3, 8, 8), 0.2), torch.full((3, 3, 8, 8), 0.4)
    stack = LayerStack((Layer("below", below), Layer("light", light, blend="add")), fps=Fraction(8))
    loaded = load_video(save_video(stack, tmp_path / "a.png"))
    assert torch.allclose(loaded.layers[0].pixels, torch.full((3, 3, 8, 8), 0.6), atol=1e-6)


def test_reader_streams_and_writer_takes_the_frames(tmp_path: Path) -> None:
    path = save_video(film(noise(), soft_disc()), tmp_path / "a.png")
    with read_frames(path) as reader:
        assert (reader.width, reader.height, reader.fps) == (WIDTH, HEIGHT, 24)
        assert (reader.frames, reader.has_alpha, reader.has_sound) == (FRAMES, True, False)
        with VideoWriter(tmp_path / "b.webp", reader.width, reader.height, reader.fps, reader.has_alpha) as writer:
            for frame in reader:
                assert frame.shape == (4, HEIGHT, WIDTH)
                writer.write(frame)
    assert torch.equal(load_video(tmp_path / "b.webp").layers[0].rgba, load_video(path).layers[0].rgba)
    assert load_video(path, max_frames=2).frames == 2


def test_frames_are_freed_while_a_film_is_read(tmp_path: Path) -> None:
    """Each decoded frame of a large film is megabytes that Python does not know of when it looks for garbage."""
    write_raw(tmp_path / "a.mp4", list(range(40)))
    gc.collect()
    gc.disable()
    try:
        with VideoReader(tmp_path / "a.mp4") as reader:
            read = sum(1 for _ in reader)
            left = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert read == 40
    assert left < 8


def test_writer_lays_frames_over_a_background(tmp_path: Path) -> None:
    frame = torch.cat([torch.zeros(3, 8, 8), torch.full((1, 8, 8), 0.4)])
    with VideoWriter(tmp_path / "a.png", 8, 8, 8, True, background=torch.tensor([1.0, 0, 0])) as writer:
        writer.write(frame)
        writer.write(frame)
    layer = load_video(tmp_path / "a.png").layers[0]
    assert layer.alpha is None
    assert torch.allclose(layer.pixels[0, :, 0, 0], torch.tensor([0.6, 0, 0]), atol=1 / 255)


@pytest.mark.parametrize("suffix", [*WITH_ALPHA, ".mp4"])
def test_a_broken_off_film_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    def break_off(frames: int) -> None:
        with VideoWriter(tmp_path / f"a{suffix}", 16, 16, 24, False) as writer:
            for _ in range(frames):
                writer.write(torch.rand(3, 16, 16))
            if frames:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        break_off(1)
    with pytest.raises(InputError, match="at least one frame"):
        break_off(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mov", ".webp", ""])
def test_nothing_is_overwritten_unasked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_video(film(torch.zeros(3, 3, 16, 16)), path)
    with pytest.raises(InputError, match="exists already"):
        save_video(film(torch.ones(2, 3, 16, 16)), path)
    assert load_video(path).frames == 3
    save_video(film(torch.ones(2, 3, 16, 16)), path, overwrite=True)
    assert load_video(path).frames == 2
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        save_video(film(torch.ones(2, 3, 16, 16)), tmp_path / "a", overwrite=True)
    assert (tmp_path / "a" / "thesis.txt").read_text() == "years of work"


def test_folder_of_frames_reads_numbers_and_tells_of_a_missing_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (10, 9, 1):
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / f"shot{index}.png")
    loaded = load_video(tmp_path)
    assert (loaded.layers[0].pixels[:, 0, 0, 0] * 255).round().tolist() == [1, 9, 10]
    assert loaded.fps == 25
    assert "25 frames per second" in caplog.text
    (tmp_path / "fps.json").write_text(json.dumps({"fps": "soon"}))
    with pytest.raises(InputError, match=r"fps\.json"):
        load_video(tmp_path)
    Image.new("RGB", (5, 4)).save(tmp_path / "shot2.png")
    (tmp_path / "fps.json").unlink()
    with pytest.raises(InputError, match=r"shot2\.png.*4x4 throughout, found 5x4"):
        load_video(tmp_path)


@pytest.mark.parametrize("rotate", [90, -90, 180])
def test_phone_films_are_turned_upright(tmp_path: Path, rotate: int) -> None:
    write_raw(tmp_path / "a.mp4", [0, 1], rotate=rotate)
    with VideoReader(tmp_path / "a.mp4") as reader:
        frame = next(iter(reader))
        assert frame.shape[1:] == (reader.height, reader.width)
    plain = torch.zeros(48, 32)
    plain[:24, :16] = 1
    assert (frame[0] - torch.rot90(plain, rotate // 90)).abs().mean() < 0.05


def test_sound_is_copied_where_the_container_holds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_raw(tmp_path / "in.mp4", list(range(5)), audio=True)
    with VideoReader(tmp_path / "in.mp4") as reader:
        assert reader.has_sound
        stack = film(torch.rand(FRAMES, 3, 48, 32))
    with av.open(str(tmp_path / "in.mp4")) as container:
        before = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    for suffix in (".mov", ".mp4"):
        save_video(stack, tmp_path / f"out{suffix}", audio_from=tmp_path / "in.mp4")
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            after = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
        assert len(after) >= 9
        assert after == before[: len(after)]
        assert load_video(tmp_path / f"out{suffix}").frames == FRAMES
    assert caplog.text == ""
    for suffix in (".webm", ".png", ".webp"):
        caplog.clear()
        save_video(stack, tmp_path / f"out{suffix}", audio_from=tmp_path / "in.mp4")
        assert "is left out" in caplog.text
        assert load_video(tmp_path / f"out{suffix}").frames == FRAMES


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "mp2", "libopus"])
def test_any_sound_is_copied_or_its_loss_is_told(tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        sound = container.add_stream(codec, rate=48000, layout="mono")
        resampler = av.AudioResampler(sound.codec_context.format, "mono", 48000)
        for index in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, index * 960
            for each in resampler.resample(frame):
                container.mux(sound.encode(each))
        container.mux(sound.encode())
    for suffix in (".mov", ".mp4", ".webm"):
        caplog.clear()
        path = save_video(film(torch.rand(FRAMES, 3, 48, 32)), tmp_path / f"a{suffix}", audio_from=tmp_path / "in.mkv")
        with av.open(str(path)) as container:
            assert bool(container.streams.audio) != ("left out" in caplog.text)
        assert load_video(path).frames == FRAMES


def test_uneven_films_are_refused_or_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mp4"
    write_raw(path, [0, 1, 2, 3, 20, 40, 41, 42])
    with pytest.raises(InputError, match=r"frame rate varies.*instead of.*ffmpeg"):
        load_video(path)
    with VideoReader(path, variable="hold") as reader:
        count = sum(1 for _ in reader)
        assert count / float(reader.fps) == pytest.approx(43 / 24, abs=1 / float(reader.fps))
    assert "repeated" in caplog.text
    with pytest.raises(ConfigError, match="variable"):
        VideoReader(path, variable="guess")


@pytest.mark.parametrize("suffix", [".mov", ".webm", ".mp4", ".apng", ".webp"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.9])
def test_films_that_are_cut_off_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = save_video(film(noise()), tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError) as caught:
        load_video(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "still.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "still.webp")
    (tmp_path / "empty.mov").touch()
    (tmp_path / "text.mp4").write_text("not a film")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "folder").mkdir()
    write_raw(tmp_path / "song.m4a", [], audio=True, video=False)
    expected = {
        "still.png": "still picture",
        "still.webp": "still picture",
        "empty.mov": "empty",
        "text.mp4": "no film",
        "list.m3u8": "no film",
        "folder": "none",
        "song.m4a": "only sound",
        "nowhere.mov": "No such file",
    }
    for name, said in expected.items():
        with pytest.raises(InputError, match=said) as caught:
            load_video(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    still = LayerStack((Layer("image", torch.zeros(3, 8, 8)),))
    with pytest.raises(FormatError, match="still picture"):
        save_video(still, tmp_path / "a.mov")
    stack = film(torch.zeros(2, 3, 8, 8))
    with pytest.raises(FormatError, match=r"\.mkv.*\.mov"):
        save_video(stack, tmp_path / "a.mkv")
    with pytest.raises(ConfigError, match=r"'crv'.*crf"):
        save_video(stack, tmp_path / "a.webm", crv=3)
    with pytest.raises(ConfigError, match="'crf'"):
        save_video(stack, tmp_path / "a.webp", crf=3)
    with pytest.raises(FormatError, match="16383"):
        VideoWriter(tmp_path / "a.webp", 16384, 1, 24, False)
    with pytest.raises(InputError, match="frame 0 must be"), VideoWriter(tmp_path / "a.mov", 8, 8, 24, True) as writer:
        writer.write(torch.zeros(3, 8, 8))
    with pytest.raises(ConfigError, match="fps"):
        VideoWriter(tmp_path / "a.mov", 8, 8, 0, True)
    assert list(tmp_path.iterdir()) == []


def test_clipped_frames_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    save_video(film(torch.full((2, 3, 8, 8), 1.5)), tmp_path / "a.png")
    assert "2 frames had values outside" in caplog.text


@pytest.mark.parametrize("suffix", [".mov", ".webp", ".apng", ""])
def test_a_full_disk_is_one_line(tmp_path: Path, suffix: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            save_video(film(torch.rand(FRAMES, 3, 64, 64)), tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
