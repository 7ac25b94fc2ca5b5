"""A server of files for tests of downloads, which breaks off and refuses as told."""

import http.server
import re


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; the other attributes make it misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range of each
        self.cuts: list[int] = []  # for each of the next responses: break off after so many bytes of its body
        self.failures: list[int] = []  # status codes to answer first
        self.reason: str | None = None  # to give for them
        self.resumes = True
        self.tag: str | None = '"one"'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        body = server.files.get(self.path)
        if server.failures:
            return self.send_error(server.failures.pop(0), server.reason)
        if body is None:
            return self.send_error(404)
        start = 0
        if wanted and server.resumes and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[start : start + cut])

    def log_message(self, *_) -> None:
        pass
