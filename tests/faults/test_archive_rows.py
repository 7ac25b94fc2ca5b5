"""Row 20 of the README's table of faults: a downloaded archive that means harm, or is not the published one."""

import stat
import zipfile

import pytest

from neo_model.utils import UserError
from tests.data.test_prepare import checksums, fetch, files_of, small_coco
from tests.security.test_archives import special, zip_of

DO_NOT_USE = "; do not use this archive"
HOSTILE = {
    "parent": (lambda: zip_of(("val2017/../../canary", b"x")), "entry 'val2017/../../canary' leads out of the folder"),
    "absolute": (lambda: zip_of(("/canary", b"x")), "entry '/canary' has an absolute or foreign path"),
    "link": (lambda: special(stat.S_IFLNK, "val2017/a"), "entry 'val2017/a' is a link"),
    "bomb": (lambda: zip_of(("val2017/a", bytes(90_000)), compression=zipfile.ZIP_DEFLATED), "unpacks to 1 files and "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_row_20_an_archive_that_means_harm_is_refused_and_nothing_unpacked(tmp_path, server, kind):
    make, said = HOSTILE[kind]
    part, content = small_coco(server)["val"], make()
    server.files[f"/{part.archive}"] = content
    hostile = type(part)(**{**vars(part), "checksums": checksums(content), "archive_bytes": len(content)})
    with pytest.raises(UserError) as caught:
        fetch({"val": hostile}, tmp_path / "coco", server)
    archive = tmp_path / "coco" / "archives" / "val2017.zip"
    assert str(caught.value).startswith(f"{archive}: {said}") and str(caught.value).endswith(DO_NOT_USE)
    assert files_of(tmp_path) == ["coco/archives/val2017.zip"]


def test_row_20_an_archive_with_another_checksum_than_the_published_is_not_kept(tmp_path, server):
    part = small_coco(server)["val"]
    server.files[f"/{part.archive}"] = zip_of(("val2017/a.jpg", b"of somebody else"))
    with pytest.raises(UserError, match="val2017.zip: its md5 is .* instead of .*, so these are not the published"):
        fetch({"val": part}, tmp_path / "coco", server)
    assert not (tmp_path / "coco" / "val2017").exists()
    assert [path.stat().st_size for path in (tmp_path / "coco" / "archives").iterdir()] == [0]
