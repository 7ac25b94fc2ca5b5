"""Published weights by name: fetched, resumed, kept, and the same ever after."""

import hashlib

import pytest
import torch

from neo_model.models import hub, load_weights
from neo_model.utils import UserError
from neo_model.utils.files import cache_folder

FILE = "rtdetr_r50vd_6x_coco_from_paddle.pth"


@pytest.fixture
def release(server, tmp_path, monkeypatch, make_model):
    """A server that has R50's published file, here a small model's; the cache is a folder of the test's."""
    monkeypatch.setenv("NEO_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "RELEASE", server.url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    torch.save({"model": make_model(seed=1).state_dict()}, tmp_path / "published.pth")
    server.files[f"/{FILE}"] = (tmp_path / "published.pth").read_bytes()
    return server


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "cache" / "weights" / FILE


def load(model) -> None:
    load_weights(model, "hub:rtdetr_r50_coco")


def test_a_named_file_is_fetched_once_through_broken_connections(release, cached, make_model):
    release.cuts = [100_000, 50_000]
    first, second = make_model(), make_model()
    load(first)
    assert [wanted for _, wanted in release.requests] == [None, "bytes=100000-", "bytes=150000-"]
    load(second)
    assert len(release.requests) == 3
    for model in (first, second):
        torch.testing.assert_close(model.state_dict(), make_model(seed=1).state_dict(), atol=0, rtol=0)
    digest = hashlib.sha256(release.files[f"/{FILE}"]).hexdigest()
    assert cached.with_name(f"{FILE}.sha256").read_text() == f"{digest}  {FILE}\n"


def test_a_later_command_goes_on_where_the_first_was_broken_off(release, cached, make_model):
    release.cuts = [70_000, 0, 0, 0]
    with pytest.raises(UserError, match="cannot be fetched"):
        load(make_model())
    assert not cached.exists()
    release.requests.clear()
    load(make_model())
    assert [wanted for _, wanted in release.requests] == ["bytes=70000-"]


def test_other_bytes_than_at_first_are_refused(release, cached, make_model):
    load(make_model())
    damaged = bytearray(cached.read_bytes())
    damaged[1000] ^= 1
    cached.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{FILE}: has the SHA-256 .* as at first; remove it to fetch it again"):
        load(make_model())


@pytest.mark.parametrize("text", ["", "\n", "0123abcd  file\n", "no digest"])
def test_a_file_without_a_digest_is_refused_and_not_replaced(release, cached, make_model, text):
    load(make_model())
    kept = cached.with_name(f"{FILE}.sha256")
    kept.write_text(text)
    with pytest.raises(UserError, match=f"{FILE}.sha256: holds no SHA-256; remove it and {FILE} beside it"):
        load(make_model())
    assert kept.read_text() == text
    kept.unlink()
    cached.unlink()
    load(make_model())


def test_a_digest_is_kept_whole_or_not_at_all(release, cached, make_model, monkeypatch):
    def full_disk(path, text):
        raise UserError(str(path), "cannot be written (No space left on device)", "make room")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "write_whole", full_disk)
        with pytest.raises(UserError, match=f"^[^ ]*{FILE}.sha256: cannot be written"):
            load(make_model())
    assert not cached.with_name(f"{FILE}.sha256").exists()
    load(make_model())


def test_offline_the_line_names_the_file_and_its_place(release, cached, make_model, monkeypatch):
    monkeypatch.setattr(hub, "RELEASE", "http://127.0.0.1:1")
    with pytest.raises(UserError) as caught:
        load(make_model())
    message = str(caught.value)
    assert message.startswith(f"weights=hub:rtdetr_r50_coco (http://127.0.0.1:1/{FILE}): cannot be fetched (")
    assert message.endswith(f"fetch {FILE} elsewhere and put it at {cached}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(release.files[f"/{FILE}"])
    load(make_model())


def test_a_file_that_carries_its_digest_in_its_name_is_held_to_it(release):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, fits in ((f"net-{digest}.pth", True), ("net-0123abcd.pth", False)):
        release.files[f"/{name}"] = content
        if fits:
            assert hub.fetched(f"{release.url}/{name}", key="k").read_bytes() == content
        else:
            with pytest.raises(UserError, match="not 0123abcd"):
                hub.fetched(f"{release.url}/{name}", key="k")


def test_an_unknown_name_is_refused_with_the_known_ones(make_model):
    with pytest.raises(UserError, match="weights=hub:r50: is not published; use one of rtdetr_r18_coco, "):
        load_weights(make_model(), "hub:r50")


@pytest.mark.parametrize(("variable", "inside"), [("NEO_MODEL_CACHE", ""), ("XDG_CACHE_HOME", "neo_model")])
def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path, variable, inside):
    monkeypatch.delenv("NEO_MODEL_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / inside
