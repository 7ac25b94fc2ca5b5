"""Archives that mean harm: nothing is written beside the folder they are unpacked to, and nothing fills the disk."""

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from neo_model.data.archives import extract_folder


def zip_of(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return buffer.getvalue()


def special(kind: int, name: str = "images/a", content: str = "/etc/passwd") -> bytes:
    """An entry that Unix tools would unpack as a link, device, pipe or socket."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, content)
        archive.writestr("images/a/canary", b"through the link")
    return buffer.getvalue()


def tar_with_hard_link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("images/canary")
        entry.type, entry.linkname = tarfile.LNKTYPE, "/etc/passwd"
        archive.addfile(entry)
    return buffer.getvalue()


def overlapping() -> bytes:
    """Many entries that share one compressed body, as in the bombs of 2019."""
    whole = zip_of(("images/a", bytes(100_000)), compression=zipfile.ZIP_DEFLATED)
    start = whole.index(b"PK\x01\x02")
    entry, end = whole[start : whole.index(b"PK\x05\x06")], whole[whole.index(b"PK\x05\x06") :]
    entries = b"".join(entry.replace(b"images/a", b"images/%c" % (97 + number)) for number in range(20))
    return whole[:start] + entries + end[:8] + struct.pack("<HHII", 20, 20, len(entries), start) + end[20:]


def encrypted() -> bytes:
    whole = bytearray(zip_of(("images/a", b"x")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + offset] |= 1
    return bytes(whole)


def lying() -> bytes:
    whole = zip_of(("images/a", bytes(5_000_000)), compression=zipfile.ZIP_DEFLATED)
    return whole.replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: zip_of(("images/../../canary", b"x")), "leads out"),
    "parent elsewhere": (lambda: zip_of(("images/a", b"x"), ("other/../../canary", b"x")), "leads out"),
    "parent at the end": (lambda: zip_of(("images/a/..", b"x")), "leads out"),
    "absolute": (lambda: zip_of(("/canary", b"x")), "absolute"),
    "two slashes": (lambda: zip_of(("//canary", b"x")), "absolute"),
    "backslashes": (lambda: zip_of(("images\\..\\..\\canary", b"x")), "absolute or foreign"),
    "drive": (lambda: zip_of(("C:canary", b"x")), "absolute or foreign"),
    "symbolic link": (lambda: special(stat.S_IFLNK, content="../.."), "is a link"),
    "character device": (lambda: special(stat.S_IFCHR), "special file"),
    "block device": (lambda: special(stat.S_IFBLK), "special file"),
    "pipe": (lambda: special(stat.S_IFIFO), "special file"),
    "socket": (lambda: special(stat.S_IFSOCK), "special file"),
    "hard link": (tar_with_hard_link, "is damaged"),
    "bomb": (lambda: zip_of(("images/a", bytes(2_000_000)), compression=zipfile.ZIP_DEFLATED), "2,000,000 bytes"),
    "bomb of LZMA": (lambda: zip_of(("images/a", bytes(2_000_000)), compression=zipfile.ZIP_LZMA), "2,000,000 bytes"),
    "bomb beside": (lambda: zip_of(("other/a", bytes(2_000_000)), compression=zipfile.ZIP_DEFLATED), "2,000,000"),
    "bomb of files": (lambda: zip_of(*((f"images/{number}", b"") for number in range(50))), "50 files"),
    "bomb that overlaps": (overlapping, "2,000,000 bytes"),
    "bomb that lies": (lying, "is damaged"),
    "encrypted": (encrypted, "is encrypted"),
    "a file as a folder": (lambda: zip_of(("images/a", b"x"), ("images/a/canary", b"x")), "cannot be unpacked"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive(refusal, tmp_path, name):
    make, said = ARCHIVES[name]
    archive, folder = tmp_path / "archive.zip", tmp_path / "data"
    archive.write_bytes(make())
    folder.mkdir()
    target = folder / "images"
    assert said in refusal(lambda: extract_folder(archive, "images", target, max_files=40, max_bytes=1_000_000))
    assert list(folder.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == [archive, folder]
    assert not Path("/canary").exists()
