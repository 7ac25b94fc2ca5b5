"""Fetching one large file over HTTP: it goes on where it broke off, and only the published bytes pass."""

import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from neo_model.utils.errors import UserError, visible

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
# Server-side troubles that pass; every other HTTP error is final.
PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)


def download(
    url: str,
    target: Path,
    *,
    checksums: Mapping[str, str],
    max_bytes: int,
    tries: int = 5,
    first_wait: float = 1.0,
) -> None:
    """Fetch `url` into `target`, unless it is there already.

    What has arrived is kept as `<target>.part` through broken connections, interruptions and later runs, and the
    transfer goes on from its end if the server can do so. `target` appears only once the checksums are right.

    Args:
        checksums: hashlib's name of each algorithm -> published hexadecimal digest.
        max_bytes: more than this is refused.
        tries: failures in a row, without a byte gained, before giving up.
        first_wait: seconds to wait after the first of them; doubled after each.

    Raises:
        UserError: the server refuses or cannot be reached, the disk is full, or the checksum is wrong.
    """
    if target.exists():
        check_file(target, checksums)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _PartialFile(target, checksums) as partial:
        pieced_together = partial.size > 0
        _transfer(url, partial, max_bytes, tries, first_wait)
        if partial.wrong_digest() and pieced_together:
            # An older or another server's beginning does not fit this end: once more, from the start.
            partial.restart()
            _transfer(url, partial, max_bytes, tries, first_wait)
        if wrong := partial.wrong_digest():
            partial.restart()
            cause = f"{wrong}, so these are not the published bytes"
            raise UserError(url, cause, "try again later or from another base_url")
        partial.finish()


def check_file(path: Path, checksums: Mapping[str, str]) -> None:
    """Read a whole file and compare its checksums; raises ``UserError`` when one is wrong."""
    if wrong := _wrong_digest(_hash_file(path, checksums), checksums):
        raise UserError(str(path), wrong, "delete this file and run the command again")


def _hash_file(path: Path, checksums: Mapping[str, str]) -> dict:
    hashes = _new_hashes(checksums)
    with open(path, "rb") as file, _bar(f"checking {path.name}", path.stat().st_size) as bar:
        while chunk := file.read(CHUNK_BYTES):
            bar.update(_feed(hashes, chunk))
    return hashes


def _new_hashes(checksums: Mapping[str, str]) -> dict:
    return {name: hashlib.new(name, usedforsecurity=False) for name in checksums}


def _feed(hashes: dict, chunk: bytes) -> int:
    for entry in hashes.values():
        entry.update(chunk)
    return len(chunk)


def _wrong_digest(hashes: dict, checksums: Mapping[str, str]) -> str | None:
    for name, published in checksums.items():
        if hashes[name].hexdigest() != published:
            return f"its {name} is {hashes[name].hexdigest()} instead of {published}"
    return None


def _bar(description: str, total: int | None) -> tqdm:
    """A progress bar in bytes, on a terminal only."""
    return tqdm(desc=description, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None)


class _PartialFile:
    """The part of a file that has arrived, its running checksums, and the server's tag of the version it belongs to."""

    def __init__(self, target: Path, checksums: Mapping[str, str]) -> None:
        self.target = target
        self._checksums = checksums
        self._path = target.with_name(f"{target.name}.part")
        self._tag_path = target.with_name(f"{target.name}.part.tag")

    def __enter__(self) -> "_PartialFile":
        if self._path.exists():
            self._hashes = _hash_file(self._path, self._checksums)
        else:
            self._hashes = _new_hashes(self._checksums)
        self._file = open(self._path, "ab")
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        return self._file.tell()

    @property
    def tag(self) -> str | None:
        """The ETag or date that the server gave this version, if it gave one."""
        return self._tag_path.read_text(encoding="latin-1") if self._tag_path.exists() else None

    def remember(self, tag: str | None) -> None:
        if tag is None:
            self._tag_path.unlink(missing_ok=True)
        else:
            self._tag_path.write_text(tag, encoding="latin-1")

    def append(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            remedy = "free some space and run the same command again, it goes on from here"
            raise UserError(str(self._path), f"cannot be written ({error.strerror})", remedy) from error
        _feed(self._hashes, chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._hashes = _new_hashes(self._checksums)
        self.remember(None)

    def wrong_digest(self) -> str | None:
        return _wrong_digest(self._hashes, self._checksums)

    def finish(self) -> None:
        os.fsync(self._file.fileno())
        self.remember(None)
        os.replace(self._path, self.target)


def _transfer(url: str, partial: _PartialFile, max_bytes: int, tries: int, first_wait: float) -> None:
    """Receive until the file is complete, connecting again as often as that helps."""
    furthest, failures = partial.size, 0
    with _bar(partial.target.name, None) as bar:
        while True:
            try:
                _receive(url, partial, max_bytes, bar)
                return
            except urllib.error.HTTPError as error:
                problem = f"the server answers {error.code} {error.reason}"
                if error.code not in PASSING_CODES:
                    raise UserError(url, problem, "check base_url") from error
            except (OSError, http.client.HTTPException) as error:
                problem = _in_words(error)
            # A server that cannot resume gains nothing by starting over: only new ground counts.
            failures = 0 if partial.size > furthest else failures + 1
            furthest = max(furthest, partial.size)
            if failures >= tries:
                remedy = "check the network and run the same command again, it goes on from here"
                raise UserError(url, f"{problem}, {failures} times in a row", remedy)
            wait = first_wait * 2 ** max(failures - 1, 0)
            said = f"{partial.target.name}: {problem} at byte {partial.size:,}; trying again in {wait:g} s"
            tqdm.write(visible(said))  # a server's words are a stranger's
            time.sleep(wait)


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _receive(url: str, partial: _PartialFile, max_bytes: int, bar: tqdm) -> None:
    """One connection: append what comes; raises ``OSError`` when the server stops before the end."""
    headers = {"User-Agent": "neo_model", "Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        if partial.tag is not None:
            headers["If-Range"] = partial.tag
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and partial.size:
                if error.headers.get("Content-Range") == f"bytes */{partial.size}":
                    return  # all of it had arrived
                partial.restart()
                raise ConnectionError("the server has a shorter file") from error
            raise
    with response:
        total = _position(response, partial)
        bar.total, bar.n = total, partial.size
        bar.refresh()
        while chunk := response.read(CHUNK_BYTES):
            if partial.size + len(chunk) > max_bytes:
                partial.restart()
                raise UserError(url, f"sends more than {max_bytes:,} bytes", "check base_url")
            partial.append(chunk)
            bar.update(len(chunk))
    if total is not None and partial.size < total:
        raise ConnectionError(errno.ECONNRESET, "the connection broke off")


def _position(response: http.client.HTTPResponse, partial: _PartialFile) -> int | None:
    """Bring the partial file to where the response begins; returns the size of the whole file, if it is told."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != partial.size:
            partial.restart()
            raise ConnectionError("the server sent another range than asked for")
        return None if found[2] == "*" else int(found[2])
    if partial.size:
        partial.restart()  # the server cannot resume, or has another version by now
    tag = response.headers.get("ETag", "")
    # Only a strong tag vouches for identical bytes.
    partial.remember(tag if tag.startswith('"') else response.headers.get("Last-Modified"))
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
