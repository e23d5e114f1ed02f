"""Who may write for a flow: one process at a time, across processes and machines, by a small file of the lake's.

A holder changes its beat in the file every few seconds. Who wants a flow that another holds watches that beat by a
clock of its own, and takes the flow over when the beat has stood still for `expires_seconds`; no two machines' clocks
are compared. A process of the same machine that is no more is taken over from at once. Every change of the file names
the content that it has seen, so a beat and a taking over cannot both win.

A holder that was only slow (stopped, paused, cut off) finds by its own clock that its beat is too old, before it
writes: `check`. What it writes in the moment between is refused where it matters: batches carry Delta's ``txn`` action
or a ledger row, and both refuse a batch that a new holder has written.
"""

from __future__ import annotations

import json
import os
import platform
import random
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.errors import RetriableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.small_files import SmallFiles

log = structlog.get_logger(__name__)
_FILE: Final = "_control/leases.json"
_TRIES: Final = 50
_BEATS: Final = 4  # in the time after which a lease expires
_FORGOTTEN_SECONDS: Final = 86400.0
_WELL_SECONDS: Final = 60.0  # longer than a JVM stands still to collect garbage
_SAFE: Final = 0.75  # a holder trusts its beat for this part of the time that others wait


class LeaseLostError(UnavailableError):
    """Another process holds the flow, or may by now."""


def boot_time() -> float:
    """Seconds that also count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class Holder:
    """A process.

    Attributes:
        run_id: its name.
        host, pid: for people.
        machine: which process table its pid is of; empty where that can't be told.
        started: when the process began, as its kernel counts.
        beat: changes for as long as it lives.
        at: when it beat, in seconds since 1970 by its own clock: only to forget it after long.
    """

    run_id: str
    host: str
    pid: int
    machine: str = ""
    started: str = ""
    beat: int = 0
    at: float = 0.0

    @classmethod
    def this_process(cls, run_id: str) -> Holder:
        """This one, under a name."""
        return cls(run_id, platform.node(), os.getpid(), _machine(), _started(os.getpid()) or "")

    @property
    def has_ended(self) -> bool:
        """Whether it is known, without waiting, to be no more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            pass
        started = _started(self.pid)
        return started is not None and started != self.started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; empty when it has ended, None where that can't be told.

    Pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else rest[18]


@dataclass(frozen=True)
class Lease:
    """Who holds a flow, and the how manieth holder it is."""

    holder: str
    epoch: int


@dataclass(frozen=True)
class _Book:
    holders: dict[str, Holder] = field(default_factory=dict)
    flows: dict[str, Lease] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> _Book:
        said: dict[str, Any] = json.loads(text)
        holders = {run: Holder(**one) for run, one in said["holders"].items()}
        return cls(holders, {flow: Lease(**one) for flow, one in said["flows"].items()})

    def without(self, run_id: str) -> _Book:
        holders = {run: one for run, one in self.holders.items() if run != run_id}
        return _Book(holders, {flow: one for flow, one in self.flows.items() if one.holder != run_id})


class Leases:
    """What this process holds.

    Args:
        files: those beside the checkpoints.
        me: this process.
        expires_seconds: how long a beat must stand still before another takes over.
        clock: gives seconds; need not agree with any other machine's.
    """

    def __init__(
        self, files: SmallFiles, me: Holder, expires_seconds: float, clock: Callable[[], float] = boot_time
    ) -> None:
        self._files, self.me, self._expires, self._clock = files, me, expires_seconds, clock
        self._held: dict[str, int] = {}
        self._valid_until = -1.0
        self._seen: dict[str, tuple[int, float]] = {}  # another's beat, and when it was first seen so
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._well_until: float | None = None
        self._beating: threading.Thread | None = None

    def acquire(self, flow: str) -> bool:
        """Hold a flow, if nobody does, or who did is gone; says whether this process holds it now.

        Raises:
            UnavailableError: the storage is away.
        """
        if flow in self._held and self._clock() < self._valid_until:
            return True
        with self._lock:

            def take(book: _Book) -> _Book | None:
                lease = book.flows.get(flow)
                if lease is not None and lease.holder != self.me.run_id:
                    if not self._is_gone(book.holders.get(lease.holder), lease.holder):
                        return None
                    log.warning("flow taken over", flow=flow, from_holder=lease.holder)
                epoch = lease.epoch + (lease.holder != self.me.run_id) if lease else 1
                return replace(book, flows=book.flows | {flow: Lease(self.me.run_id, epoch)})

            book = self._change(take)
            if book is None:
                self._held.pop(flow, None)
                return False
            self._beat_from_now_on()
            return True

    def release(self, *flows: str) -> None:
        """Let others have flows; what can't be said now is seen when this process has ended."""
        with self._lock, suppress(RetriableError):
            mine = [flow for flow in flows if self._held.pop(flow, None) is not None]
            if mine:
                self._change(
                    lambda book: replace(
                        book,
                        flows={
                            flow: one
                            for flow, one in book.flows.items()
                            if flow not in mine or one.holder != self.me.run_id
                        },
                    )
                )

    def check(self, flow: str) -> None:
        """Make sure that no other process can have taken the flow over by now.

        Raises:
            LeaseLostError: ``LEASE_LOST``.
        """
        if flow not in self._held or self._clock() >= self._valid_until:
            raise LeaseLostError(
                "LEASE_LOST",
                f"This process no longer holds {flow}: it was stopped, or cut off from its storage, for so long that "
                "another may have taken over.",
                way_out="What it had not committed is left to whoever holds the flow now.",
            )

    def holder_of(self, flow: str) -> Holder | None:
        """Another process that holds the flow; None where there is none, or it is gone."""
        book = self._read()[0]
        lease = book.flows.get(flow)
        if (
            lease is None
            or lease.holder == self.me.run_id
            or self._is_gone(book.holders.get(lease.holder), lease.holder)
        ):
            return None
        return book.holders.get(lease.holder)

    def is_alive(self, run_id: str) -> bool:
        """Whether a process still beats, as far as has been seen."""
        return not self._is_gone(self._read()[0].holders.get(run_id), run_id)

    def confirm(self, seconds: float = _WELL_SECONDS) -> None:
        """What this process works with has answered. Who has said so once must say it again within the seconds, or its

        beat stands still and others take over.
        """
        self._well_until = max(self._well_until or 0.0, self._clock() + seconds)

    def enter(self) -> None:
        """Be known to others as alive, before anything is held."""
        with self._lock:
            self._change(lambda book: book)
            self._beat_from_now_on()

    def close(self) -> None:
        """Let go of everything, and be known no more."""
        self._ended.set()
        if self._beating is None:
            return
        self._beating.join(self._expires)
        with self._lock, suppress(RetriableError):
            self._held.clear()
            self._change(lambda book: book.without(self.me.run_id), is_last=True)

    @contextmanager
    def held(self, flow: str) -> Iterator[None]:
        """Hold a flow for a block.

        Raises:
            RetriableError: ``FLOW_RUNNING``: another process holds it.
        """
        if not self.acquire(flow):
            other = self.holder_of(flow)
            where = f"process {other.pid} on {other.host}" if other else "another process"
            raise RetriableError(
                "FLOW_RUNNING",
                f"{flow} is held by {where}.",
                way_out=f"Let it wait meanwhile: streams pause {flow} (and streams resume {flow} afterwards).",
            )
        try:
            yield
        finally:
            self.release(flow)

    def _is_gone(self, holder: Holder | None, run_id: str) -> bool:
        if holder is None or holder.has_ended:
            return True
        with self._lock:
            now = self._clock()
            beat, since = self._seen.get(run_id, (None, now))
            if beat != holder.beat:
                self._seen[run_id] = (holder.beat, now)
                return False
            return now - since > self._expires

    def _read(self) -> tuple[_Book, str | None]:
        file = self._files.read(_FILE)
        return (_Book.of(file.text), file.tag) if file else (_Book(), None)

    def _change(self, change: Callable[[_Book], _Book | None], *, is_last: bool = False) -> _Book | None:
        """Change the book, with a beat of this process's; None when the change says that it can't be."""
        for _ in range(_TRIES):
            began = self._clock()
            book, tag = self._read()
            changed = change(book)
            if changed is None:
                return None
            if not is_last:
                beat = max(self.me.beat, changed.holders.get(self.me.run_id, self.me).beat) + 1
                self.me = replace(self.me, beat=beat, at=time.time())
                changed = replace(changed, holders=_known(changed) | {self.me.run_id: self.me})
            if self._files.write(_FILE, json.dumps(asdict(changed)), tag):
                mine = {flow: one.epoch for flow, one in changed.flows.items() if one.holder == self.me.run_id}
                self._held = mine
                self._valid_until = began + self._expires * _SAFE
                return changed
            time.sleep(random.uniform(0, 0.05))
        raise RetriableError("LEASES_BUSY", "Others change the leases all the time.", way_out="Try again.")

    def _beat_from_now_on(self) -> None:
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="leases", daemon=True)
            self._beating.start()

    def _beat(self) -> None:
        while not self._ended.wait(self._expires / _BEATS):
            if self._well_until is not None and self._clock() > self._well_until:
                log.warning("what this process works with does not answer; its leases are not renewed")
                continue
            try:
                with self._lock:
                    before = set(self._held)
                    self._change(lambda book: book)
                    lost = before - set(self._held)
                if lost:
                    log.warning("another process has taken flows over", flows=sorted(lost))
            except Exception as error:
                log.warning("the leases can't be renewed", error=str(error))


def _known(book: _Book) -> dict[str, Holder]:
    """Who holds something, or may be alive."""
    holding = {one.holder for one in book.flows.values()}
    since = time.time() - _FORGOTTEN_SECONDS
    return {run: one for run, one in book.holders.items() if run in holding or not (one.has_ended or one.at < since)}
