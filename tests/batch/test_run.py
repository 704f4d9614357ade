import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict, astuple, replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.batch import inputs, run
from darkroom.errors import DataError, LockedError, ParamsError
from darkroom.files.writing import sha256_of
from darkroom.monitoring import measures, samples
from darkroom.monitoring.log import read
from darkroom.registry import versions
from darkroom.registry.snapshot import PACKAGE_FILE
from tests.support.registered import CLASSES, write_version

N_IMAGES = 60


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return write_version(tmp_path_factory.mktemp("version"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A directory of 60 small images in two directories, one inside the other."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "möre").mkdir()
    write_images(folder, N_IMAGES)
    return folder


def write_images(folder, n):
    rng = np.random.default_rng(0)
    for number in range(n):
        pixels = rng.integers(0, 256, (10, 9), np.uint8)
        name = f"möre/{number:04d}.png" if number % 3 == 0 and (folder / "möre").is_dir() else f"{number:04d}.png"
        (folder / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_every_image_is_answered_as_its_package_answers_it(images, version, tmp_path):
    summary = run.run(str(images), tmp_path / "out.parquet", version=version)
    rows = rows_of(tmp_path / "out.parquet")
    assert [row["path"] for row in rows] == names_in(images)
    package = versions.load(version)
    for row in rows:
        data = (images / row["path"]).read_bytes()
        expected = package.predict([data])[0]
        assert row["id"] == hashlib.sha256(data).hexdigest()
        assert (row["label"], row["abstained"], row["version"], row["error"]) == (expected["label"], False, "3", None)
        assert row["familiarity"] is row["unknown"] is row["prediction_set"] is None, "this version cannot tell"
        assert row["probability"] == pytest.approx(expected["probability"])
        assert row["probabilities"] == pytest.approx([expected["probabilities"][name] for name in CLASSES])
    assert {row["label"] for row in rows} == set(CLASSES)
    assert (summary.images, summary.failed, summary.resumed, summary.version) == (N_IMAGES, 0, 0, "3")
    said = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"darkroom"])
    assert said == {"classes": CLASSES, "model": "shades", "version": "3"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def pack(images, target):
    """Write the images of a directory as the archive or list that the name of the target says."""
    names = names_in(images)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as zipped:
            for name in names:
                zipped.write(images / name, name)
    elif target.suffix == ".txt":
        target.write_text("".join(f"{images / name}\r\n" for name in names) + "\n")
    else:
        mode: Any = f"w:{target.suffix[1:]}".removesuffix("tar")
        with tarfile.open(target, mode) as tar:
            for name in names:
                tar.add(images / name, name)
    return target


@pytest.mark.parametrize("kind", ["tar", "gz", "xz", "bz2", "zip"])
def test_an_archive_is_answered_as_the_folder_it_was_made_of(images, version, tmp_path, kind):
    for source in (images, pack(images, tmp_path / f"images.{kind}")):
        run.run(str(source), tmp_path / f"{source.suffix}.parquet", version=version)
    assert rows_of(tmp_path / ".parquet") == rows_of(tmp_path / f".{kind}.parquet")


def test_a_list_of_paths_is_answered_in_its_order(images, version, tmp_path, monkeypatch):
    names = names_in(images)[::-1][:5]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{name}\n" for name in [*names, "", "nowhere.png"]))
    monkeypatch.chdir(images)
    run.run(str(listed), tmp_path / "file.parquet", version=version)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.read_bytes())))
    run.run("-", tmp_path / "stdin.parquet", version=version)
    rows = rows_of(tmp_path / "file.parquet")
    assert [row["path"] for row in rows] == [*names, "nowhere.png"]
    assert rows[-1]["error"] == "No such file or directory"
    assert rows == rows_of(tmp_path / "stdin.parquet")


def test_what_cannot_be_read_becomes_a_row_that_says_why(images, version, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "a.png").write_bytes(b"")
    good = (images / "0001.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "broken.png").write_bytes(good[:100])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "link").symlink_to(images)
    os.mkfifo(folder / "pipe")
    (folder / "readme.txt").write_text("text")
    (folder / "dangling.png").symlink_to("nowhere")
    os.close(os.open(os.fsencode(folder) + b"/z\xff.png", os.O_CREAT))
    monkeypatch.setattr("darkroom.batch.answers.MAX_IMAGE_BYTES", 2000)
    (folder / "large.png").write_bytes(good + bytes(2000))
    summary = run.run(str(folder), tmp_path / "out.parquet", version=version)
    rows = {row["path"]: row for row in rows_of(tmp_path / "out.parquet")}
    reasons = {path: row["error"] for path, row in rows.items()}
    assert list(reasons) == [
        "a.png", "broken.png", "dangling.png", "empty.jpg", "large.png", "link", "pipe", "readme.txt", "z\\udcff.png",
    ]  # fmt: skip
    assert reasons["a.png"] is None
    assert reasons["broken.png"] == (
        "100 bytes are not an image that can be decoded; it is truncated, damaged or compressed in an unusual way"
    )
    assert reasons["dangling.png"] == "No such file or directory"
    assert reasons["empty.jpg"] == "0 bytes: the file is empty"
    assert "bytes exceed the limit of" in reasons["large.png"]
    assert reasons["link"] == "a directory"
    assert reasons["pipe"] == "not a regular file"
    assert "4 bytes are not an image" in reasons["readme.txt"]
    assert rows["broken.png"]["id"] == hashlib.sha256(good[:100]).hexdigest()
    assert rows["pipe"] == dict.fromkeys(rows["pipe"]) | {"path": "pipe", "version": "3", "error": "not a regular file"}
    assert (summary.images, summary.failed) == (9, 8)
    assert summary.errors[0].startswith("broken.png: 100 bytes")


def test_a_list_may_begin_with_the_letters_of_an_image_format(images, version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BMW").mkdir()
    shutil.copy(images / "0001.png", tmp_path / "BMW")
    (tmp_path / "list.txt").write_text("BMW/0001.png\n" * 5)
    run.run("list.txt", tmp_path / "out.parquet", version=version)
    assert {(row["path"], row["error"]) for row in rows_of(tmp_path / "out.parquet")} == {("BMW/0001.png", None)}


def test_what_the_versions_code_reads_is_logged_without_size(tmp_path):
    version = write_version(tmp_path / "version")
    code = tmp_path / "version" / PACKAGE_FILE
    code.write_text(
        code.read_text()
        + """
_decode = Package.decode
Package.decode = lambda self, data: np.full(self.image_shape, 51, np.uint8) if data == b"own" else _decode(self, data)
"""
    )
    version = replace(version, tags={**version.tags, f"sha256/{PACKAGE_FILE}": sha256_of(code)})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.raw").write_bytes(b"own")
    write_images(tmp_path / "in", 2)
    run.run(str(tmp_path / "in"), tmp_path / "out.parquet", version=version, options=run.Options(log=tmp_path / "log"))
    assert [row["error"] for row in rows_of(tmp_path / "out.parquet")] == [None] * 3
    rows = read(tmp_path / "log").to_pylist()
    assert sorted(((row["width"], row["height"]) for row in rows), key=str) == [(9, 10), (9, 10), (None, None)]
    size = samples.logged_sample(read(tmp_path / "log")).measures["size"]
    assert size.tolist() == [90**0.5] * 2


def test_a_damaged_member_of_a_zip_is_a_row_beside_the_others(images, version, tmp_path):
    path = pack(images, tmp_path / "images.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"IHDR") + 6] ^= 255  # within the first member, so that its checksum is wrong
    path.write_bytes(data)
    assert run.run(str(path), tmp_path / "out.parquet", version=version).failed == 1
    assert "is damaged (Bad CRC-32" in rows_of(tmp_path / "out.parquet")[0]["error"]


def test_the_order_and_the_answers_do_not_depend_on_the_workers(images, version, tmp_path):
    for workers in (1, 3):
        run.run(str(images), tmp_path / f"{workers}.parquet", version=version, options=run.Options(workers=workers))
    assert pq.read_table(tmp_path / "1.parquet").equals(pq.read_table(tmp_path / "3.parquet"))


@pytest.mark.heavy
def test_processes_answer_as_threads_do(images, version, tmp_path):
    for backend in ("threading", "loky"):
        run.run(
            str(images),
            tmp_path / f"{backend}.parquet",
            version=version,
            options=run.Options(workers=2, backend=backend),
        )
    assert pq.read_table(tmp_path / "loky.parquet").equals(pq.read_table(tmp_path / "threading.parquet"))


def test_a_limit_takes_the_first_images(images, version, tmp_path):
    assert run.run(str(images), tmp_path / "out.parquet", version=version, options=run.Options(limit=7)).images == 7
    assert [row["path"] for row in rows_of(tmp_path / "out.parquet")] == names_in(images)[:7]


def test_an_empty_folder_gives_an_empty_table(version, tmp_path):
    (tmp_path / "in").mkdir()
    assert run.run(str(tmp_path / "in"), tmp_path / "out.parquet", version=version).images == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_an_answer_below_the_threshold_is_marked(images, tmp_path):
    version = write_version(tmp_path / "version", abstain_below=0.95)
    summary = run.run(str(images), tmp_path / "out.parquet", version=version)
    rows = rows_of(tmp_path / "out.parquet")
    assert 0 < summary.abstained < N_IMAGES
    assert summary.abstained == sum(row["abstained"] for row in rows)
    assert all(row["abstained"] == (row["probability"] < 0.95) for row in rows)


def test_an_unfamiliar_image_is_marked_as_unknown(images, tmp_path):
    scale = {"strangeness": [130.0], "share": [0.001]}
    version = write_version(tmp_path / "version", strangeness=np.full(64, 1 / 64), scale=scale)
    options = run.Options(log=tmp_path / "log")
    summary = run.run(str(images), tmp_path / "out.parquet", version=version, options=options)
    rows = rows_of(tmp_path / "out.parquet")
    package = versions.load(version)
    expected = [package.predict([(images / row["path"]).read_bytes()])[0] for row in rows]
    assert [row["unknown"] for row in rows] == [answer["unknown"] for answer in expected]
    assert [row["familiarity"] for row in rows] == pytest.approx([answer["familiarity"] for answer in expected])
    assert 0 < summary.abstained == sum(row["unknown"] for row in rows) < N_IMAGES
    logged = {row["id"]: row["familiarity"] for row in read(tmp_path / "log").to_pylist()}
    assert logged == {row["id"]: row["familiarity"] for row in rows}


def test_a_prediction_set_is_a_list(tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    write_images(images, 20)
    (images / "0007.png").write_text("no picture")
    version = write_version(tmp_path / "version", listed_up_to=0.8)
    run.run(str(images), tmp_path / "out.parquet", version=version)
    *rows, refused = sorted(rows_of(tmp_path / "out.parquet"), key=lambda row: row["path"] == "0007.png")
    package = versions.load(version)
    expected = [package.predict([(images / row["path"]).read_bytes()])[0]["prediction_set"] for row in rows]
    assert [row["prediction_set"] for row in rows] == expected
    assert {len(listed) for listed in expected} == {1, 2}
    assert refused["prediction_set"] is None


def stopped_after(n_chunks, images, out, version):
    """Run a batch that is interrupted when so many chunks are done."""
    told = iter(range(n_chunks + 1))

    def interrupt(_done, _of):
        if next(told) == n_chunks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(str(images), out, version=version, on_progress=interrupt)


def test_an_interrupted_run_resumes_with_what_is_missing(images, version, tmp_path):
    out = tmp_path / "out.parquet"
    stopped_after(2, images, out, version)
    assert not out.exists()
    parts = tmp_path / "out.parquet.parts"
    shutil.copy(parts / "00000000.arrow", parts / ".1a1d7835-00000003.arrow")  # of a kill before its renaming
    (parts / "00000000.arrow").write_bytes(b"ARROW1")  # as after a loss of power
    summary = run.run(str(images), out, version=version)
    assert (summary.images, summary.resumed) == (N_IMAGES, run.SMALLEST_CHUNK)
    run.run(str(images), tmp_path / "whole.parquet", version=version)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "whole.parquet"]


def test_parts_of_an_earlier_release_are_used(images, version, tmp_path):
    out = tmp_path / "out.parquet"
    stopped_after(2, images, out, version)
    part = tmp_path / "out.parquet.parts" / "00000000.arrow"
    with pa.memory_map(str(part)) as file:
        table = pa.ipc.open_file(file).read_all().drop_columns(["prediction_set", "unknown"])
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, table.schema) as file:
        file.write_table(table)
    part.unlink()
    part.write_bytes(content.getvalue())
    assert run.run(str(images), out, version=version).resumed == 2 * run.SMALLEST_CHUNK
    run.run(str(images), tmp_path / "whole.parquet", version=version)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_another_run_is_not_continued_and_says_what_differs(images, version, tmp_path):
    out = tmp_path / "out.parquet"
    folder = tmp_path / "in"
    folder.mkdir()
    write_images(folder, 40)
    stopped_after(1, folder, out, version)
    other = write_version(tmp_path / "version", number="4")
    with pytest.raises(DataError, match=r"belongs to a run with version 3, not 4; finish it with --version 3"):
        run.run(str(folder), out, version=other)
    with pytest.raises(DataError, match=r"with log None, not \S*log; finish it with its arguments"):
        run.run(str(folder), out, version=version, options=run.Options(log=tmp_path / "log"))
    with pytest.raises(DataError, match=r"with limit None, not 3; finish it with its arguments"):
        run.run(str(folder), out, version=version, options=run.Options(limit=3))
    (folder / "0007.png").write_bytes(b"changed")
    with pytest.raises(DataError, match=r"on other images; .* or start over with --restart"):
        run.run(str(folder), out, version=version)
    assert run.run(str(folder), out, version=other, options=run.Options(restart=True)).resumed == 0


def test_a_source_that_lost_images_is_not_continued(images, version, tmp_path):
    listed, out = tmp_path / "list.txt", tmp_path / "out.parquet"
    names = [f"{images / name}\n" for name in names_in(images)]
    listed.write_text("".join(names))
    stopped_after(2, listed, out, version)
    listed.write_text("".join(names[: run.SMALLEST_CHUNK]))
    with pytest.raises(DataError, match=r"on other images; .* or start over with --restart"):
        run.run(str(listed), out, version=version)


def test_images_are_answered_before_all_are_listed(images, version, tmp_path, monkeypatch):
    """The list comes from a program that waits for the first answers before it names more images."""
    reader, writer = os.pipe()
    names = [f"{images / name}\n".encode() for name in names_in(images)]
    monkeypatch.setattr(run, "CHUNK_IMAGES", 1)
    told = list[tuple[int, int | None]]()

    def go_on(done, of):
        if done and not told:
            told.append((done, of))
            os.write(writer, b"".join(names[40:]))
            os.close(writer)

    os.write(writer, b"".join(names[:40]))
    with os.fdopen(reader, "rb") as source:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
        options = run.Options(workers=1)
        summary = run.run("-", tmp_path / "out.parquet", version=version, options=options, on_progress=go_on)
    assert (told, summary.images) == ([(run.SMALLEST_CHUNK, None)], N_IMAGES)


def test_two_runs_do_not_write_one_file_at_once(images, version, tmp_path):
    out = tmp_path / "out.parquet"

    def second(_done, _of):
        with pytest.raises(LockedError, match=r"out.parquet is being written by another process"):
            run.run(str(images), out, version=version)

    run.run(str(images), out, version=version, on_progress=second)
    assert LockedError.exit_code == 75


def test_what_cannot_be_an_input_or_an_output_is_refused(images, version, tmp_path):
    out = tmp_path / "out.parquet"
    with pytest.raises(ParamsError, match=r"nowhere: no such file or directory"):
        run.run("nowhere", out, version=version)
    with pytest.raises(ParamsError, match=r"0001.png is a single image; .* `darkroom predict \S+0001.png`"):
        run.run(str(images / "0001.png"), out, version=version)
    with pytest.raises(ParamsError, match=r"is a directory; expected the parquet file to write"):
        run.run(str(images), tmp_path, version=version)
    with pytest.raises(ParamsError, match=r"written as parquet; name the file x.parquet"):
        run.run(str(images), tmp_path / "x.csv", version=version)
    with pytest.raises(ParamsError, match=r"is inside"):
        run.run(str(images), images / "out.parquet", version=version)
    (tmp_path / "damaged.tar").write_bytes(bytes(100) + b"no archive")
    with pytest.raises(DataError, match=r"damaged.tar: 110 bytes are not a zip or tar archive"):
        run.run(str(tmp_path / "damaged.tar"), out, version=version)


def test_chunks_of_an_archive_are_bounded_in_bytes(images, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 500)
    with inputs.open_inputs(str(pack(images, tmp_path / "a.tar"))) as opened:
        chunks: list[Any] = list(opened.chunks(16))
        assert all(sum(map(len, chunk.contents)) <= 500 for chunk in chunks)
        assert [name for chunk in chunks for name in chunk.names] == names_in(images)
        later = opened.chunks(16, is_done=lambda number, _fingerprint: number in (0, 2))
        assert [astuple(chunk) for chunk in later] == [astuple(chunk) for chunk in (chunks[1], *chunks[3:])]


def test_the_log_has_a_row_per_answer_and_images_when_asked(images, version, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_images(folder, 20)
    (folder / "broken.png").write_bytes(b"")
    run.run(str(folder), tmp_path / "out.parquet", version=version, options=run.Options(log=tmp_path / "log"))
    assert [path.suffix for path in (tmp_path / "log").iterdir()] == [".parquet"]
    logged = {row["id"]: row for row in read(tmp_path / "log").to_pylist()}
    answered = [row for row in rows_of(tmp_path / "out.parquet") if row["label"]]
    assert len(logged) == len(answered) == 20
    package = versions.load(version)
    for row in answered:
        data = (folder / row["path"]).read_bytes()
        entry = logged[row["id"]]
        assert (entry["label"], entry["confidence"]) == (row["label"], row["probability"])
        assert (entry["version"], entry["width"], entry["height"]) == ("3", 9, 10)
        measured = measures.features(package.decode(data))
        assert {name: entry[name] for name in measures.FEATURES} == pytest.approx(measured, rel=1e-6)
    run.run(
        str(folder),
        tmp_path / "out.parquet",
        version=version,
        options=run.Options(log=tmp_path / "log", keep_images=True),
    )
    assert read(tmp_path / "log").num_rows == 40
    kept = {path.name: path.read_bytes() for path in (tmp_path / "log" / "images").glob("*/*")}
    assert kept.keys() == logged.keys()
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in kept.items())


RUN = """
import json, os, signal, sys, threading
from pathlib import Path
from darkroom.batch import run
from darkroom.registry.snapshot import Version
source, out, version, log, seconds = sys.argv[1:]

def kill_later(done, of):
    global kill_later
    kill_later = lambda done, of: None
    threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()

run.run(
    source, Path(out), version=Version(**json.loads(version)),
    options=run.Options(workers=2, log=Path(log)), on_progress=lambda done, of: kill_later(done, of),
)
os._exit(0)
"""


@pytest.mark.heavy
def test_a_run_killed_at_any_moment_ends_as_an_undisturbed_one(images, version, tmp_path):
    source, out, log = tmp_path / "list.txt", tmp_path / "out.parquet", tmp_path / "log"
    source.write_text("".join(f"{images / name}\n" for name in names_in(images) * 200))
    command = [sys.executable, "-c", RUN, str(source), str(out), json.dumps(asdict(version)), str(log)]
    rng = np.random.default_rng(0)
    kills = [subprocess.run([*command, str(rng.uniform(0, 0.4))], check=False).returncode for _ in range(4)]
    assert kills.count(-signal.SIGKILL) >= 2  # a fast machine may finish before the others
    n_finished = kills.count(0) + 1
    assert subprocess.run([*command, "600"], check=False).returncode == 0
    run.run(str(source), tmp_path / "whole.parquet", version=version)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert read(log).num_rows == n_finished * N_IMAGES * 200
    assert sorted(path.name for path in tmp_path.iterdir() ) == [
        "list.txt", "log", "out.parquet", "whole.parquet",
    ]  # fmt: skip
