"""What a flow's checkpoint folder says: who it is, how far it is, and whether a batch was cut short."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.storage import Storage


@dataclass(frozen=True)
class BatchIdentity:
    """Names one micro-batch for ever: a repeated batch has the same, a reset checkpoint has others."""

    flow: str
    checkpoint_id: str
    batch_id: int

    @property
    def app_id(self) -> str:
        """For Delta's ``txn`` action, whose version is the batch id."""
        return f"{self.flow}/{self.checkpoint_id}"

    def as_dict(self) -> dict[str, Any]:
        """As commits, lanes and the audit keep it."""
        return {"flow": self.flow, "checkpoint_id": self.checkpoint_id, "batch_id": self.batch_id}


@dataclass(frozen=True)
class Checkpoint:
    """A Spark checkpoint at ``path``.

    Spark writes ``metadata`` (the query's id, which is the identity of this checkpoint), ``offsets/N`` when
    batch N begins and ``commits/N`` when it is done. ``streams.json`` is ours: what the source was like when
    the checkpoint was new, and where it was to begin (see `streams.sources`); so is ``through.json``.
    """

    storage: Storage
    path: str

    @property
    def flow(self) -> str:
        """Whose it is: the folder's name."""
        return self.path.rpartition("/")[2]

    def interrupted_batch(self) -> int | None:
        """The batch that was begun and never committed: the only one that can have been written already."""
        begun, done = self._newest("offsets"), self._newest("commits")
        return begun if begun is not None and begun != done else None

    def committed_offsets(self, source: int) -> Any | None:
        """Where a source (by its place in the query) stood after the newest finished batch; None before that."""
        newest = self._newest("commits")
        return None if newest is None else self.offsets(newest, source)

    def offsets(self, batch_id: int, source: int) -> Any | None:
        """Where a source stands at the end of a batch, done or only begun."""
        text = self.storage.read(f"{self.path}/offsets/{batch_id}")
        # The first line is the log's version, the second the batch's metadata, then one line a source.
        line = (text or "").splitlines()[2 + source :][:1]
        return json.loads(line[0]) if line and line[0] != "-" else None

    def sources(self) -> int | None:
        """How many sources the newest batch was of; None before the first."""
        newest = self._newest("offsets")
        text = None if newest is None else self.storage.read(f"{self.path}/offsets/{newest}")
        return len(text.splitlines()) - 2 if text else None

    def remember(self, facts: dict[str, Any]) -> None:
        """Keep facts about the source beside Spark's files."""
        self.storage.write(f"{self.path}/streams.json", json.dumps(facts, sort_keys=True))
        failpoint(self.flow, "source_remembered")

    def remembered(self) -> dict[str, Any]:
        """What `remember` kept; empty when this checkpoint is new."""
        text = self.storage.read(f"{self.path}/streams.json")
        return dict(json.loads(text)) if text else {}

    def through(self) -> list[Any] | None:
        """Where the sources stood before the last run that got through; None where there is more to do since."""
        known = self.storage.read(f"{self.path}/through.json")
        return list(json.loads(known)) if known and self.interrupted_batch() is None else None

    def remember_through(self, position: Sequence[object]) -> None:
        """Keep where the sources stood before a run that got through."""
        failpoint(self.flow, "query_ended")
        self.storage.write(f"{self.path}/through.json", json.dumps(position))
        failpoint(self.flow, "through_written")

    def set_aside(self, suffix: str) -> str:
        """Move the folder away, so that the flow begins anew under a new identity; gives the new place."""
        moved = f"{self.path}.{suffix}"
        self.storage.move(self.path, moved)
        failpoint(self.flow, "checkpoint_set_aside")
        return moved

    def newest_batch(self) -> int | None:
        """The newest batch that was begun; None before the first."""
        return self._newest("offsets")

    def identity(self) -> str | None:
        """The query's id; None where none has ever begun here."""
        text = self.storage.read(f"{self.path}/metadata")
        return json.loads(text)["id"] if text else None

    def exists(self) -> bool:
        """Whether a query has ever begun here."""
        return self.storage.exists(f"{self.path}/metadata")

    def _newest(self, folder: str) -> int | None:
        return max((int(name) for name in self.storage.names(f"{self.path}/{folder}") if name.isdigit()), default=None)
