"""Fetching COCO, against a local server that behaves as badly as real ones, and archives that mean harm."""

import hashlib
import io
import json
import re
import shlex
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from neo_model.config import compose_training
from neo_model.data import prepare as prepare_module
from neo_model.data.archives import extract_folder
from neo_model.data.prepare import COCO_2017, Part, main, prepare, verify
from neo_model.utils import UserError
from neo_model.utils.download import download
from tests.file_server import Server

JPEG = b"\xff\xd8\xff" + bytes(2000) + b"\xff\xd9"


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def checksums(content: bytes) -> dict[str, str]:
    return {"md5": hashlib.md5(content).hexdigest(), "sha1": hashlib.sha1(content).hexdigest()}


def instances(num_images: int) -> bytes:
    images = [{"id": i + 1, "file_name": f"{i:012d}.jpg", "width": 8, "height": 8} for i in range(num_images)]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}]
    categories = [{"id": 1, "name": "person"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


def small_coco(server: Server) -> dict[str, Part]:
    """COCO's three archives with 4 training and 2 validation images, put on the server."""
    parts = {}
    for name, num_images in (("annotations", 0), ("val", 2), ("train", 4)):
        published = COCO_2017[name]
        if name == "annotations":
            files = {"instances_train2017.json": instances(4), "instances_val2017.json": instances(2)}
        else:
            files = {f"{i:012d}.jpg": JPEG for i in range(num_images)}
        content = zip_of({f"{published.folder}/{file}": data for file, data in files.items()})
        server.files[f"/{published.archive}"] = content
        parts[name] = Part(
            archive=published.archive,
            checksums=checksums(content),
            folder=published.folder,
            annotations=published.annotations,
            num_images=num_images,
            files=published.files,
            archive_bytes=len(content),
            unpacked_bytes=20_000,
        )
    return parts


def fetch(parts: dict[str, Part], root: Path, server: Server, *, keep_archives: bool = False) -> None:
    prepare(list(parts.values()), root=root, base_url=server.url, keep_archives=keep_archives, first_wait=0.001)


def files_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


ALL_FILES = [
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    *(f"train2017/{i:012d}.jpg" for i in range(4)),
    *(f"val2017/{i:012d}.jpg" for i in range(2)),
]


def test_everything_arrives_where_the_coco_configuration_looks(tmp_path, server):
    parts = small_coco(server)
    fetch(parts, tmp_path / "coco", server)
    assert files_of(tmp_path) == [f"coco/{name}" for name in ALL_FILES]
    data = compose_training(["data=coco", f"data.root={tmp_path / 'coco'}"]).data
    for split in ("train", "val"):
        assert Path(data[f"{split}_images"]) == tmp_path / "coco" / parts[split].folder
        assert Path(data[f"{split}_annotations"]) == tmp_path / "coco" / parts[split].annotations


def test_what_is_there_is_not_fetched_again(tmp_path, server, capsys):
    parts = small_coco(server)
    fetch(parts, tmp_path, server)
    server.requests.clear()
    fetch(parts, tmp_path, server)
    assert server.requests == []
    assert capsys.readouterr().out.count("there already") == 3


def test_missing_images_are_put_back_and_other_files_left_alone(tmp_path, server):
    parts = small_coco(server)
    fetch(parts, tmp_path, server)
    (tmp_path / "train2017" / f"{2:012d}.jpg").unlink()
    (tmp_path / "annotations" / "mine.json").write_text("{}")
    (tmp_path / "train2017" / "notes.txt").write_text("mine")
    fetch(parts, tmp_path, server)
    assert files_of(tmp_path) == sorted([*ALL_FILES, "annotations/mine.json", "train2017/notes.txt"])


def test_published_figures_of_coco():
    assert COCO_2017["train"].num_images == 118_287
    assert COCO_2017["val"].num_images == 5_000
    assert COCO_2017["train"].checksums["md5"] == "cced6f7f71b7629ddf16f17bbcfab6b2"
    assert COCO_2017["annotations"].checksums["sha1"] == "8551ee4bb5860311e79dace7e79cb91e432e78b3"


CONTENT = bytes(range(256)) * 400


def get(server: Server, target: Path, content: bytes = CONTENT, **arguments) -> None:
    server.files.setdefault("/file", CONTENT)
    settings = {"max_bytes": 1_000_000, "tries": 3, "first_wait": 0.001} | arguments
    download(f"{server.url}/file", target, checksums=checksums(content), **settings)


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path, server):
    server.cuts = [30_000, 20_000]
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=30000-", "bytes=50000-"]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_later_run_goes_on_from_the_earlier_one(tmp_path, server):
    server.cuts = [40_000, 0, 0, 0]
    with pytest.raises(UserError, match="broke off, 3 times in a row"):
        get(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    server.requests.clear()
    get(server, tmp_path / "file")
    assert server.requests == [("/file", "bytes=40000-")]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_many_breaks_are_fine_as_long_as_each_gains_something(tmp_path, server):
    server.cuts = [9_000] * 11
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_is_asked_for_the_whole(tmp_path, server):
    server.resumes, server.cuts = False, [30_000]
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_and_always_breaks_off_is_given_up(tmp_path, server):
    server.resumes, server.cuts = False, [30_000] * 20
    with pytest.raises(UserError, match="3 times in a row"):
        get(server, tmp_path / "file")
    assert len(server.requests) == 4


def test_a_file_that_changed_on_the_server_is_fetched_from_the_start(tmp_path, server):
    server.files["/file"], server.cuts, server.tag = CONTENT[::-1], [40_000, 0, 0, 0], '"old"'
    with pytest.raises(UserError):
        get(server, tmp_path / "file")
    server.files["/file"], server.tag = CONTENT, '"new"'
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_beginning_that_does_not_fit_is_replaced(tmp_path, server):
    server.tag = None
    (tmp_path / "file.part").write_bytes(b"of another version")
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=18-", None]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"too long"])
def test_a_part_that_is_whole_or_too_long(tmp_path, server, part):
    (tmp_path / "file.part").write_bytes(part)
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_no_file(tmp_path, server):
    server.files["/file"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="md5 is .* instead of"):
        get(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").stat().st_size == 0


def test_a_wrong_file_from_before_is_refused(tmp_path, server):
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(UserError, match="delete this file"):
        get(server, tmp_path / "file")


def test_passing_trouble_is_waited_out_and_a_missing_file_is_not(tmp_path, server):
    server.failures = [503, 429]
    get(server, tmp_path / "file")
    assert (tmp_path / "file").exists()
    server.requests.clear()
    server.failures = [404]
    with pytest.raises(UserError, match="answers 404 Not Found; check base_url"):
        get(server, tmp_path / "other")
    assert len(server.requests) == 1


def test_a_server_that_does_not_answer_is_given_up(tmp_path, server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="refused, 2 times in a row; check the network"):
        download(f"{url}/file", tmp_path / "file", checksums={}, max_bytes=10, tries=2, first_wait=0.001)


def test_endless_content_is_cut_short(tmp_path, server):
    with pytest.raises(UserError, match="more than 50,000 bytes"):
        get(server, tmp_path / "file", max_bytes=50_000)
    assert not (tmp_path / "file").exists()


def test_a_small_disk_is_noticed_before_anything_is_fetched(tmp_path, server, monkeypatch):
    parts = small_coco(server)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    with pytest.raises(UserError, match="0.0 GB are free"):
        fetch(parts, tmp_path, server)
    assert server.requests == []


@pytest.mark.parametrize(
    ("keep_archives", "left", "needed"),
    [
        (False, {}, 300_000 + 30_000),  # everything unpacked, beside the last archive
        (True, {}, 300_000 + 60_000),
        # What is left of an archive is space not needed for that one, and free again before the last comes.
        (False, {"a.zip": 10_000, "b.zip.part": 5_000}, 300_000 + 30_000 - 15_000),
        (True, {"c.zip.part": 29_000}, 300_000 + 60_000 - 29_000),
        (False, {"c.zip": 30_000}, 300_000),
    ],
)
def test_the_space_that_is_needed(tmp_path, monkeypatch, keep_archives, left, needed):
    sizes = {"a": 10_000, "b": 20_000, "c": 30_000}
    parts = [
        Part(archive=f"zips/{name}.zip", checksums={}, folder=name, archive_bytes=size, unpacked_bytes=100_000)
        for name, size in sizes.items()
    ]
    (tmp_path / "archives").mkdir()
    for name, size in left.items():
        (tmp_path / "archives" / name).write_bytes(bytes(size))
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with nullcontext() if enough else pytest.raises(UserError, match="GB are needed"):
            prepare_module._check_space(parts, tmp_path, keep_archives)


def test_a_second_process_is_refused(tmp_path, server):
    parts = small_coco(server)
    with prepare_module._alone_in(tmp_path), pytest.raises(UserError, match="another process is fetching into it; wait"):
        fetch(parts, tmp_path, server)
    assert server.requests == []
    fetch(parts, tmp_path, server)


def unpack(tmp_path: Path, content: bytes, **limits) -> int:
    (tmp_path / "archive.zip").write_bytes(content)
    limits = {"max_files": 10, "max_bytes": 10_000} | limits
    return extract_folder(tmp_path / "archive.zip", "val2017", tmp_path / "inner" / "val2017", **limits)


@pytest.fixture
def inner(tmp_path) -> Path:
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "page"])
def test_a_damaged_archive_leaves_nothing_half_done(tmp_path, inner, damage):
    whole = zip_of({"val2017/a.jpg": JPEG, "val2017/b.jpg": JPEG})
    position = whole.rindex(JPEG) + 500
    content = {
        "cut": whole[:-30],
        "flipped": whole[:position] + b"\x55" + whole[position + 1 :],
        "empty": b"",
        "page": b"<html>not here</html>",
    }[damage]
    with pytest.raises(UserError, match="is damaged"):
        unpack(tmp_path, content)
    assert list(inner.iterdir()) == []


def test_an_archive_without_the_folder_or_with_a_name_twice_is_refused(tmp_path, inner):
    with pytest.raises(UserError, match="no folder 'val2017'"):
        unpack(tmp_path, zip_of({"other/a.jpg": b"a"}))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            archive.writestr("val2017/a.jpg", b"a")
            archive.writestr("val2017/a.jpg", b"b")
    with pytest.raises(UserError, match="two entries of one name"):
        unpack(tmp_path, twice.getvalue())
    assert list(inner.iterdir()) == []


def test_only_the_wanted_folder_is_unpacked(tmp_path, inner):
    assert unpack(tmp_path, zip_of({"val2017/sub/a.jpg": b"a", "__MACOSX/a.jpg": b"b"})) == 1
    assert files_of(inner) == ["val2017/sub/a.jpg"]


def test_verification_passes_on_what_was_fetched(tmp_path, server, capsys):
    parts = small_coco(server)
    fetch(parts, tmp_path, server, keep_archives=True)
    assert len(list((tmp_path / "archives").iterdir())) == 3
    verify(list(parts.values()), root=tmp_path)
    assert "all 4 images of instances_train2017.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("image", r"train2017: has 3 of 4 images"),
        ("renamed", r"1 of 4 images of .* are missing: 000000000002.jpg"),
        ("archive", r"val2017.zip: its md5 is"),
        ("annotations", r"has not both instances_train2017.json and"),
        ("listing", r"lists 3 images, not 4"),
    ],
)
def test_verification_names_what_is_wrong(tmp_path, server, damage, message):
    parts = small_coco(server)
    fetch(parts, tmp_path, server, keep_archives=True)
    image = tmp_path / "train2017" / f"{2:012d}.jpg"
    if damage == "image":
        image.unlink()
    elif damage == "renamed":
        image.rename(image.with_name("other.jpg"))
    elif damage == "archive":
        (tmp_path / "archives" / "val2017.zip").write_bytes(b"cut")
    elif damage == "annotations":
        (tmp_path / "annotations" / "instances_val2017.json").unlink()
    else:
        (tmp_path / "annotations" / "instances_train2017.json").write_bytes(instances(3))
    with pytest.raises(UserError, match=message):
        verify(list(parts.values()), root=tmp_path)


def test_what_cannot_be_read_is_among_what_is_wrong(tmp_path, server, monkeypatch):
    parts = small_coco(server)
    fetch(parts, tmp_path, server)

    def refuse(part, root):
        raise PermissionError(13, "Permission denied", str(root / "train2017"))

    monkeypatch.setattr(prepare_module, "_whats_there", refuse)
    (tmp_path / "train2017" / f"{2:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 3 parts are not right: .*/train2017: cannot be read \(Permission denied"):
        verify(list(parts.values()), root=tmp_path)


def test_the_command_fetches_a_part_and_verifies_it(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(prepare_module, "COCO_2017", small_coco(server))
    settings = [f"root={tmp_path}/coco", f"base_url={server.url}", "parts=[val,annotations]"]
    assert main(settings) == 0
    assert files_of(tmp_path / "coco") == [name for name in ALL_FILES if not name.startswith("train2017")]
    assert main([*settings, "verify_only=true"]) == 0
    assert main([*settings[:2], "verify_only=true", "parts=train"]) == 2
    assert "error:" in capsys.readouterr().err


def test_the_command_says_what_to_do_next_once_all_is_there(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(prepare_module, "COCO_2017", small_coco(server))
    root = tmp_path / "my coco"
    settings = [f"root={root}", f"base_url={server.url}"]
    assert main([*settings, "parts=[val]"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("\nnot there yet, and needed for training: annotations, train\n") and "next:" not in said
    assert main(settings) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("next: python train.py data=coco ")
    overrides = shlex.split(line)[3:]
    assert compose_training(overrides).data.root == str(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rot=x"], "rot: there is no such key; did you mean root?"),
        (["parts=[vall]"], "parts: ['vall'] is not"),
        (["parts=[]", "root=ROOT"], "parts: names none; give some of annotations, val, train"),
        (["keep_archives=maybe"], "keep_archives: 'maybe' is not true or false"),
        (["base_url=ftp://host", "root=ROOT"], "base_url: 'ftp://host' is not an http or https address"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert main([argument.replace("ROOT", str(tmp_path)) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1


def test_help_names_every_setting(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{key}=" in printed for key in prepare_module.SETTINGS)
