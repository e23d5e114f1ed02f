"""What every run of a flow needs: the session, the settings, the lake, and who is told of each batch."""

from __future__ import annotations

import threading
import uuid
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from streams.checkpoint import Checkpoint
from streams.flows.flow import Table
from streams.lake import Lake
from streams.session import Session, require_storage
from streams.sinks.table import ensure_table
from streams.small_files import small_files
from streams.storage import Storage
from streams.supervisor.kafka_progress import KafkaProgress
from streams.supervisor.lease import Holder, Leases
from streams.supervisor.lineage import lineage_listener
from streams.telemetry.audit import AUDIT
from streams.telemetry.events import tell
from streams.telemetry.listeners import configured_listeners
from streams.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import SparkSession

    from streams.flows.flow import Flow
    from streams.settings import Settings
    from streams.telemetry.events import Event, Listener
    from streams.telemetry.metrics import Metrics


def new_run_id() -> str:
    """Names one run of this program, in every log line, lane row and audit row."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class Service:
    """One process's work on one lake.

    Attributes:
        session: gives the Spark session, always the same.
        leases: what keeps other processes from the flows that this one runs; None where there are none.
        rebuilding: the flow whose table is made anew (see `reset`).
    """

    session: Callable[[], SparkSession]
    settings: Settings
    run_id: str
    listeners: tuple[Listener, ...] = ()
    draining: threading.Event = field(default_factory=threading.Event)
    leases: Leases | None = None
    rebuilding: str | None = None
    metrics: Metrics | None = None
    kafka: KafkaProgress | None = None
    _made: set[str] = field(default_factory=set)
    _making: threading.Lock = field(default_factory=threading.Lock)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    @property
    def spark(self) -> SparkSession:
        """The Spark session."""
        return self.session()

    @property
    def lake(self) -> Lake:
        """Where the tables are."""
        return Lake(self.settings.lake.root, self.settings.checkpoints.root, self.rebuilding)

    def checkpoint(self, flow: str) -> Checkpoint:
        """The flow's checkpoint."""
        return Checkpoint(Storage(self.spark), self.lake.checkpoint(flow))

    def tell(self, event: Event) -> None:
        """Tell the listeners of what was done."""
        tell(self.listeners, event)

    def hold(self, flow: str) -> AbstractContextManager[None]:
        """Keep other processes from a flow, for a block; raises ``FLOW_RUNNING`` where one holds it."""
        return self.leases.held(flow) if self.leases else nullcontext()

    def check_held(self, flow: str) -> None:
        """Make sure that this process still holds the flow; raises ``LEASE_LOST``."""
        if self.leases is not None:
            self.leases.check(flow)

    def prepare(self, flow: Flow) -> None:
        """Make the tables that the flow needs, or bring them up to their declarations; once a process."""
        for table in (*flow.tables, Table(self.lake.audit, AUDIT)):
            with self._making:
                lock = self._locks.setdefault(table.path, threading.Lock())
            # Each table has a lock of its own: a day from an empty lake makes some forty of them.
            with lock:
                if table.path not in self._made:
                    ensure_table(self.spark, table.path, table.schema, table.evolution)
                    self._made.add(table.path)


@contextmanager
def started(
    settings: Settings,
    listeners: Iterable[Listener] = (),
    progress: Callable[[str], None] | None = None,
    command: str | None = None,
    is_spark_needed: bool = True,
) -> Iterator[Service]:
    """A service with a Spark session of its own, which ends with the block.

    Args:
        settings: the configuration.
        listeners: told of what is done (see `streams.telemetry.events`).
        progress: told, for people, of what takes long at the start.
        command: what runs the flows, as lineage calls it: ``up``, ``daily`` or a job's name.
        is_spark_needed: whether in any case; if not, it is started by what first asks for it.
    """
    run_id = new_run_id()
    configure_logging(settings.logging, run_id)
    require_storage(settings)
    session = Session(settings, progress)
    if is_spark_needed:
        session()
    files = small_files(settings.checkpoints.root)
    leases = Leases(files, Holder.this_process(run_id), settings.lease.expires_seconds)
    draining = threading.Event()
    try:
        with ExitStack() as stack:
            stack.enter_context(closing(leases))
            told = stack.enter_context(configured_listeners(settings, session.jvm_pid))
            lineage = stack.enter_context(lineage_listener(settings, session, command, draining.is_set))
            all_told = (*listeners, *told.all, *lineage)
            service = Service(session, settings, run_id, all_told, draining, leases, metrics=told.metrics)
            kafka = stack.enter_context(closing(KafkaProgress(settings, service.checkpoint, service.tell)))
            yield replace(service, listeners=(kafka, *service.listeners), kafka=kafka)
    finally:
        session.stop()
