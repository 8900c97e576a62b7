"""Names of outputs, and batches that survive bad files, dying workers and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.io import batch

SUFFIXES = (".png", ".jpg")


def collect(inputs, out=None, extension=lambda path: path.suffix, **options):
    return batch.collect(
        [str(i) for i in inputs],
        None if out is None else str(out),
        suffixes=SUFFIXES,
        layer="transmission",
        extension=extension,
        own=("reflection",),
        **options,
    )


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def targets(jobs, root):
    return [str(job.target.relative_to(root)) for job in jobs]


def test_lone_file_goes_beside_itself_or_where_it_is_told(tmp_path):
    touch(tmp_path / "a.b.jpg")
    (tmp_path / "out").mkdir()
    where = {out: collect([tmp_path / "a.b.jpg"], out)[0].target for out in (None, "-", tmp_path / "x.png")}
    assert where[None] == tmp_path / "a.b.transmission.jpg"
    assert where["-"] is None
    assert where[tmp_path / "x.png"] == tmp_path / "x.png"
    for folder in (f"{tmp_path}/out", f"{tmp_path}/new/"):
        assert collect([tmp_path / "a.b.jpg"], folder)[0].target == Path(folder) / "a.b.transmission.jpg"
    with pytest.raises(InputError, match="not there"):
        collect([tmp_path / "a.b.jpg"], tmp_path / "missing" / "x.png")


def test_folder_is_walked_and_its_tree_mirrored(tmp_path):
    photos = tmp_path / "photos"
    touch(
        photos / "a.JPG", photos / "deep/er/b.png", photos / "notes.txt", photos / ".hidden.png", photos / ".git/c.png"
    )
    touch(photos / "a.transmission.jpg", photos / "a.reflection.png", photos / "c.transmission.png")
    touch(photos / "out" / "a.transmission.JPG", photos / "out" / "z.png")
    jobs = collect([photos], photos / "out")
    # c.transmission.png has no c.* beside it: it is a picture of that name, not an output of ours
    wanted = ["a.transmission.JPG", "c.transmission.transmission.png", "deep/er/b.transmission.png"]
    assert targets(jobs, photos / "out") == wanted
    assert [str(job.relative) for job in jobs] == ["a.JPG", "c.transmission.png", "deep/er/b.png"]
    beside = collect([tmp_path / "photos/deep"])
    assert targets(beside, photos) == ["deep/er/b.transmission.png"]


def test_glob_and_stdin(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "sub/c.png", tmp_path / "[odd].png")
    assert len(collect([f"{tmp_path}/**/*.png"], tmp_path / "o")) == 4
    assert collect([tmp_path / "[odd].png"])[0].source == tmp_path / "[odd].png"
    assert collect(["-"])[0] == batch.Job(None, None, Path("stdin"))
    assert collect(["-"], tmp_path / "x.png")[0].target == tmp_path / "x.png"


def test_bad_requests_are_refused_before_any_work(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "sub/a.png")
    (tmp_path / "empty").mkdir()

    def as_png(path: Path) -> str:
        return ".png"

    with pytest.raises(ConfigError, match=r"a\.jpg and .*a\.png would both"):
        collect([tmp_path], tmp_path / "out", as_png)
    with pytest.raises(ConfigError, match="would both"):
        collect([tmp_path / "a.png", tmp_path / "sub/a.png"], tmp_path / "out")
    with pytest.raises(ConfigError, match="given twice"):
        collect([tmp_path / "a.png", tmp_path / "sub/../a.png"])
    with pytest.raises(ConfigError, match="also an input"):
        collect([tmp_path / "a.png"], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="found a file"):
        collect([tmp_path / "a.png", tmp_path / "a.jpg"], tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="several"):
        collect([tmp_path], "-")
    with pytest.raises(ConfigError, match="only input"):
        collect(["-", tmp_path / "a.png"])
    with pytest.raises(InputError, match="no picture"):
        collect([tmp_path / "empty"])
    for missing in (tmp_path / "nope.png", tmp_path / "nope*.png"):
        with pytest.raises(InputError):
            collect([missing])


def test_unreadable_folder_below_is_a_failed_job(tmp_path, monkeypatch):
    touch(tmp_path / "a.png", tmp_path / "locked/b.png")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    jobs = collect([tmp_path], tmp_path / "out")
    results = batch.run(jobs, Maker())
    by_name = {result.job.source.name: result for result in results}
    assert {name: result.status for name, result in by_name.items()} == {"a.png": "done", "locked": "failed"}
    assert "Permission denied" in by_name["locked"].error
    with pytest.raises(InputError, match="cannot be read"):
        collect([tmp_path / "locked"])


@dataclass(frozen=True)
class Maker:
    """Makes work that copies, or misbehaves as the content of the file says."""

    broken: bool = False

    def __call__(self):
        if self.broken:
            raise WeightsError("no weights", "train some")
        return work


def work(job: batch.Job) -> None:
    text = job.source.read_text()
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "bad":
        raise InputError(f"{job.source}: not a picture")
    if text == "bug":
        raise ValueError("two\nlines")
    if text.startswith("sleep"):
        half = job.target.with_suffix(".half")
        half.touch()
        try:
            time.sleep(float(text.split()[1]))
        finally:
            half.unlink()
    job.target.write_text(text + os.environ.get("OMP_NUM_THREADS", ""))


def photos(tmp_path: Path, **contents: str) -> list[batch.Job]:
    (tmp_path / "in").mkdir()
    for name, text in contents.items():
        (tmp_path / "in" / f"{name}.png").write_text(text)
    return collect([tmp_path / "in"], tmp_path / "out")


def rows(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]


def test_bad_files_and_dying_workers_do_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = photos(tmp_path, a="bad", b="die", c="fine", d="bug", e="die", f="fine")
    seen = []
    results = batch.run(
        jobs,
        Maker(),
        workers=2,
        results=tmp_path / "out/results.jsonl",
        progress=lambda result, done, total: seen.append((done, total)),
    )
    by_name = {result.job.source.stem: result for result in results}
    assert {name: result.status for name, result in by_name.items()} == {
        **dict.fromkeys("abde", "failed"),
        **dict.fromkeys("cf", "done"),
    }
    assert "not a picture" in by_name["a"].error
    assert "SIGKILL" in by_name["b"].error
    assert by_name["d"].error == "ValueError: two lines"
    assert seen == [(n, 6) for n in range(1, 7)]
    assert (tmp_path / "out/c.transmission.png").read_text() == "fine1"  # one thread per worker
    assert {Path(row["input"]).stem: row["status"] for row in rows(tmp_path)} == {
        name: result.status for name, result in by_name.items()
    }
    assert sorted(rows(tmp_path)[0]) == ["error", "input", "output", "seconds", "status"]


def test_finished_files_are_skipped_and_empty_ones_are_not_finished(tmp_path):
    jobs = photos(tmp_path, a="new", b="new", c="new")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.transmission.png").write_text("old")
    (out / "b.transmission.png").touch()
    results = batch.run(jobs, Maker(), results=out / "results.jsonl")
    assert [result.status for result in results] == ["skipped", "done", "done"]
    assert (out / "a.transmission.png").read_text() == "old"
    batch.run(jobs, Maker(), overwrite=True)
    assert (out / "a.transmission.png").read_text().startswith("new")


def test_lone_file_raises_and_is_never_overwritten_unasked(tmp_path):
    touch(tmp_path / "a.png")
    (job,) = collect([tmp_path / "a.png"])
    job.target.write_text("old")
    with pytest.raises(InputError, match="exists already"):
        batch.run([job], Maker())
    batch.run([job], Maker(), overwrite=True)
    assert job.target.read_text().startswith("x")
    job.source.write_text("bad")
    with pytest.raises(InputError, match="not a picture"):
        batch.run([job], Maker(), overwrite=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_failing_maker_is_one_error(tmp_path, workers):
    with pytest.raises(WeightsError, match="no weights"):
        batch.run(photos(tmp_path, a="fine", b="fine"), Maker(broken=True), workers=workers)


def test_output_folder_that_cannot_be_made_is_one_error(tmp_path):
    jobs = photos(tmp_path, a="fine")
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        batch.run(jobs, Maker(), results=tmp_path / "file" / "results.jsonl")


def test_ctrl_c_stops_cleanly_and_a_second_run_does_the_rest(tmp_path):
    photos(tmp_path, a="fine", b="sleep 300", c="sleep 300", d="fine")
    script = tmp_path / "drive.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_batch import Maker, Path, batch, collect
            if __name__ == "__main__":
                root = Path({str(tmp_path)!r})
                jobs = collect([root / "in"], root / "out")
                batch.run(jobs, Maker(), workers=2, results=root / "out/results.jsonl")
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "out/results.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    while time.time() < deadline and len(list((tmp_path / "out").glob("*.half"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT
    assert stderr.count("Traceback") == 1, stderr  # the parent's own; workers are silent
    assert [Path(row["input"]).stem for row in rows(tmp_path)] == ["a"]
    assert not list((tmp_path / "out").glob("*.half"))  # workers took away what they had begun
    for name in "bc":
        (tmp_path / "in" / f"{name}.png").write_text("fine")
    results = batch.run(collect([tmp_path / "in"], tmp_path / "out"), Maker())
    assert [result.status for result in results] == ["skipped", "done", "done", "done"]
