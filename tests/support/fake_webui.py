"""Open WebUI's API as far as course bots need it, in memory: what its routers do in release 0.12.4.

`asked` has every request; `limit` cuts the connection after so many, and `embedding` False takes the model away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from flexi_chat.webui.client import WebuiError

ADMIN = "admin-id"
DUPLICATE = "400: Duplicate content detected. Please provide unique content to proceed."
EMPTY = "The content provided is empty. Please ensure that there is text or data present before proceeding."


class FakeWebui:
    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.knowledge: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.links: set[tuple[str, str]] = set()
        self.vectors: list[tuple[str, str, str]] = []
        """Collection, file, hash of the text: one for each piece."""
        self.groups: dict[str, str] = {}
        self.users = {ADMIN: "flexi@localhost"}
        self.asked: list[str] = []
        self.embedded: list[str] = []
        self.limit: int | None = None
        self.embedding = True
        self.length = 768
        """Of the embedding model's vectors; a collection has those of one length."""
        self.lengths: dict[str, int] = {}
        self.refuse = 0
        """How many files go into no knowledge."""
        self._last = 0

    def _id(self) -> str:
        self._last += 1
        return f"id-{self._last}"

    def _count(self, words: str) -> None:
        if self.limit is not None and len(self.asked) >= self.limit:
            raise WebuiError(0, "Open WebUI does not answer")
        self.asked.append(words)

    def get(self, path: str, **query: Any) -> Any:
        self._count(f"GET {path}")
        match path.removeprefix("/api/v1/").rstrip("/").split("/"):
            case ["models", "all"]:
                return list(self.models.values())
            case ["knowledge"]:
                return {"items": list(self.knowledge.values()) if query["page"] == 1 else []}
            case ["knowledge", knowledge, "files"]:
                items = [self.files[file] for where, file in sorted(self.links) if where == knowledge]
                return {"items": items, "total": len(items)}
            case ["groups"]:
                return [{"id": key, "name": name} for key, name in self.groups.items()]
            case ["users", "all"]:
                return {"users": [{"id": key, "email": mail} for key, mail in self.users.items()]}
            case ["files", "user", "search"]:
                return list(self.files.values())[query["skip"] :][: query["limit"]]
            case ["files", file]:
                return self.files[file]
        return {"data": []}

    def post(self, path: str, body: Any = None) -> Any:
        self._count(f"POST {path}")
        body = body or {}
        match path.removeprefix("/api/v1/").partition("?")[0].split("/"):
            case ["groups", "create"]:
                made = self._id()
                self.groups[made] = body["name"]
                return {"id": made}
            case ["models", "create"]:
                if body["id"] in self.models:
                    raise WebuiError(401, "taken")
                self.models[body["id"]] = {**body, "user_id": ADMIN}
                return body
            case ["models", "model", "update"]:
                self.models[body["id"]].update(body)
                return body
            case ["models", "model", "access", "update"]:
                self.models[body["id"]]["access_grants"] = body["access_grants"]
                return body
            case ["models", "model", "toggle"]:
                bot = self.models[path.partition("?id=")[2]]
                bot["is_active"] = not bot.get("is_active", True)
                return bot
            case ["models", "model", "delete"]:
                del self.models[body["id"]]
                return True
            case ["knowledge", "create"]:
                made = self._id()
                self.knowledge[made] = {**body, "id": made, "user_id": ADMIN}
                return self.knowledge[made]
            case ["knowledge", knowledge, "update"]:
                self.knowledge[knowledge].update(body)
                return body
            case ["knowledge", knowledge, "access", "update"]:
                self.knowledge[knowledge]["access_grants"] = body["access_grants"]
                return body
            case ["knowledge", knowledge, "reset"]:
                self._drop(knowledge)
                for where, file in [link for link in self.links if link[0] == knowledge]:
                    self.links.discard((where, file))
                    self._drop(f"file-{file}")
                    del self.files[file]
                return {}
            case ["knowledge", knowledge, "file", "add"]:
                return self._add(knowledge, body["file_id"])
            case ["knowledge", knowledge, "file", "remove"]:
                file = self.files[body["file_id"]]
                self.links.remove((knowledge, file["id"]))
                self.vectors = [each for each in self.vectors if each[0] != knowledge or each[1] != file["id"]]
                self.vectors = [each for each in self.vectors if each[0] != knowledge or each[2] != file["hash"]]
                if path.endswith("delete_file=true"):
                    del self.files[file["id"]]
                    self._drop(f"file-{file['id']}")
                return {}
            case ["retrieval", "delete"]:
                text = self.files[body["file_id"]]["hash"]
                if text is None:
                    raise WebuiError(400, "File has no hash")
                self.vectors = [each for each in self.vectors if each[0] != body["collection_name"] or each[2] != text]
                return {}
        raise AssertionError(path)

    def delete(self, path: str) -> Any:
        self._count(f"DELETE {path}")
        match path.removeprefix("/api/v1/").split("/"):
            case ["knowledge", knowledge, "delete"]:
                self._drop(knowledge)
                del self.knowledge[knowledge]
            case ["files", file]:
                del self.files[file]
        return True

    def upload(self, name: str, kind: str, content: bytes, metadata: Mapping[str, str]) -> Any:
        self._count(f"UPLOAD {name}")
        made = self._id()
        text = content.decode().strip()
        row = {"id": made, "filename": name, "hash": None, "user_id": ADMIN}
        row["meta"] = {"name": name, "file_hash": metadata["file_hash"], "data": dict(metadata)}
        row["data"] = {"status": "completed", "content": text}
        self.files[made] = row
        try:
            self._embed(f"file-{made}", made, text)
            row["hash"] = hashlib.sha256(text.encode()).hexdigest()
        except WebuiError as error:
            row["data"] = {"status": "failed", "error": error.words}
        return row

    def _add(self, knowledge: str, file: str) -> Any:
        row = self.files[file]
        if self.refuse:
            self.refuse -= 1
            raise WebuiError(400, "no")
        if any(each[0] == knowledge and each[2] == row["hash"] and each[1] != file for each in self.vectors):
            row["hash"] = None
            raise WebuiError(400, DUPLICATE)
        self._embed(knowledge, file, row["data"]["content"])
        # A connection that is cut here leaves vectors without a file.
        self._count("…")
        self.links.add((knowledge, file))
        return {}

    def _embed(self, collection: str, file: str, text: str) -> None:
        if not text:
            raise WebuiError(400, EMPTY)
        if not self.embedding:
            raise WebuiError(400, "Ollama embed error (503): no instance has the model")
        if self.lengths.setdefault(collection, self.length) != self.length:
            raise WebuiError(400, f"Collection expecting embedding with dimension of {self.lengths[collection]}")
        self.embedded.append(text)
        self.vectors.append((collection, file, hashlib.sha256(text.encode()).hexdigest()))

    def _drop(self, collection: str) -> None:
        self.lengths.pop(collection, None)
        self.vectors = [each for each in self.vectors if each[0] != collection]
