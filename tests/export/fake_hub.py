"""A server on loopback that speaks as much of the Hugging Face Hub's protocol as pushing and pulling take."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse


class FakeHub(http.server.ThreadingHTTPServer):
    """Repositories in memory: name -> {file: bytes}. It keeps what was asked of it as "METHOD /path".

    Attributes:
        private: name -> whether the repository is; those that nobody made by the protocol are.
        failing: the status of every answer, if it is not 0.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.private, self.requests, self.failing = {}, {}, [], 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name):
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        hub, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.strip("/").split("/")
        if hub.failing:
            return self.answer({"error": "not now"}, hub.failing)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.repositories.setdefault(name, {})
            hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
            return self.answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if parts[:2] == ["api", "models"]:
            return self.about("/".join(parts[2:4]), parts[4:], body)
        return self.file("/".join(parts[:2]), parts[2:])

    do_GET = do_HEAD = do_POST = handle_request  # noqa: N815

    def about(self, name, rest, body):
        hub = self.server
        if name not in hub.repositories:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        held = hub.repositories[name]
        files = [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in held.items()]
        match rest:
            case ["revision", revision] if revision not in ("main", hub.commit(name)):
                return self.answer({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
            case [] | ["revision", _]:
                siblings = [{"rfilename": path} for path in held]
                private = hub.private.get(name, True)
                return self.answer({"id": name, "sha": hub.commit(name), "siblings": siblings, "private": private})
            case ["tree", _, *_]:
                return self.answer(files)
            case ["preupload", _]:
                asked = json.loads(body)["files"]
                uploads = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
                return self.answer({"files": uploads})
            case ["commit", _]:
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        held[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "deletedFile":
                        held.pop(value["path"], None)
                sha = hub.commit(name)
                return self.answer(
                    {"commitOid": sha, "commitUrl": f"{hub.address}/{name}/commit/{sha}", "success": True}
                )
        return self.answer({"error": "unknown"}, 404)

    def file(self, name, rest):
        hub, path = self.server, "/".join(rest[2:])
        data = hub.repositories.get(name, {}).get(path)
        if data is None:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(data).hexdigest()
        return self.answer(data, X_Repo_Commit=hub.commit(name), ETag=f'"{etag}"')


@contextlib.contextmanager
def serving():
    """A server that runs until the end of the block."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
