"""A Kafka topic as a stream of envelopes, guarded against offsets that are no longer what they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from pyspark.sql import functions as F
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from streams.errors import FatalError, StreamsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from streams.checkpoint import Checkpoint
    from streams.settings import FlowSettings, KafkaSettings

_ANSWER_WITHIN = 10.0  # seconds
Offsets = dict[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class KafkaSource:
    """One topic. The service asks the broker through confluent-kafka; the data is read by Spark's own source.

    Args:
        flow: the flow that reads it, named in errors.
        topic: the topic's name.
        kafka: how to reach the brokers.
    """

    flow: str
    topic: str
    kafka: KafkaSettings

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """Envelopes from where the checkpoint stands; from the topic's beginning when it is new."""
        start = checkpoint.remembered().get("starting_offsets")
        reader = (
            spark.readStream.format("kafka")
            .options(**self.kafka.spark_options())
            .option("subscribe", self.topic)
            .option("startingOffsets", json.dumps({self.topic: start}) if start else "earliest")
            .option("failOnDataLoss", "true")
        )
        if limits.max_rows_per_batch is not None:
            reader = reader.option("maxOffsetsPerTrigger", limits.max_rows_per_batch)
        return reader.load().select(
            F.col("value").alias("payload"),
            F.make_valid_utf8(F.col("key").cast("string")).alias("key"),
            F.col("topic").alias("_source"),
            F.col("partition").alias("_partition"),
            F.col("offset").alias("_offset"),
            F.col("timestamp").alias("_source_time"),
            F.lit(None).cast("string").alias("_replay_of"),
        )

    def position(self, spark: SparkSession) -> Any:
        """Which topic it is, and each partition's end offset."""
        return self._ask(self._end)

    def is_idle(self, checkpoint: Checkpoint, place: int, was: Any, position: Any) -> bool:
        """Whether it is the same topic and ends where it ended."""
        return bool(was == position)

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Compare the topic with the one that the checkpoint was made for."""
        topic_id, earliest, latest = self._ask(self._describe)
        known = checkpoint.remembered()
        if "topic_id" not in known:
            checkpoint.remember(known | {"topic_id": topic_id})
        elif known["topic_id"] != topic_id:
            raise self._loss(
                "KAFKA_TOPIC_RECREATED",
                f"Topic {self.topic!r} was deleted and created again since {self.flow} last read it: what was in the "
                "old one and not yet read is lost.",
                known=known["topic_id"],
                found=topic_id,
            )
        reached = self.reached(checkpoint)
        lost = {p: earliest[p] - at for p, at in reached.items() if p in earliest and earliest[p] > at}
        if lost:
            raise self._loss(
                "KAFKA_OFFSETS_AGED_OUT",
                f"Topic {self.topic!r} no longer holds {sum(lost.values())} messages that {self.flow} has not read "
                f"({_per_partition(lost)}).",
                lost=lost,
            )
        beyond = {p: at - latest.get(p, 0) for p, at in reached.items() if at > latest.get(p, 0)}
        if beyond:
            raise self._loss(
                "KAFKA_OFFSETS_BEYOND_END",
                f"{self.flow} has read further than topic {self.topic!r} reaches ({_per_partition(beyond)} too far): "
                "its log was cut or restored from an older copy.",
                beyond=beyond,
            )

    def go_on_from(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What a new checkpoint must remember to go on after a loss: for each partition the first offset not read,

        or the first that is still there. A topic that was created again is read from its beginning.
        """
        topic_id, earliest, latest = self._ask(self._describe)
        same = checkpoint.remembered().get("topic_id") == topic_id
        reached = self.reached(checkpoint) if same else {}
        start = {p: max(first, min(reached.get(p, first), latest[p])) for p, first in earliest.items()}
        return {"topic_id": topic_id, "starting_offsets": {str(p): at for p, at in start.items()}}

    def bounds(self, checkpoint: Checkpoint) -> dict[int, tuple[int, int, int]]:
        """For each partition that was read: its first offset, the next one to read, and its end."""
        _, earliest, latest = self._ask(self._describe)
        return {p: (earliest[p], at, latest[p]) for p, at in self.reached(checkpoint).items() if p in latest}

    def lag(self, reached: Offsets) -> Offsets:
        """For each partition how many messages it has that were not read, its end less the next one to read."""
        _, earliest, latest = self._ask(self._describe)
        return {p: max(0, end - reached.get(p, earliest[p])) for p, end in latest.items()}

    def tell_group(self, group: str, reached: Offsets) -> None:
        """Commit to a consumer group how far the topic was read, for Kafka's own tools. Nothing is read from there.

        Raises:
            UnavailableError: the broker does not answer, or refuses it.
        """
        offsets = [TopicPartition(self.topic, partition, offset) for partition, offset in reached.items()]

        def commit(admin: AdminClient) -> None:
            asked = admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, offsets)], request_timeout=_ANSWER_WITHIN
            )
            for partition in asked[group].result().topic_partitions:
                if partition.error is not None:
                    raise KafkaException(partition.error)

        # A broker that has just started finds out first who looks after the group.
        patiently = Retrying(
            retry=retry_if_exception(_is_finding_coordinator),
            wait=wait_fixed(0.5),
            stop=stop_after_delay(_ANSWER_WITHIN),
            reraise=True,
        )
        self._ask(lambda admin: patiently(commit, admin))

    def reached(self, checkpoint: Checkpoint, batch_id: int | None = None) -> Offsets:
        """For each partition the next offset to read after a batch, by default after the newest finished one."""
        committed = None if batch_id is None else checkpoint.offsets(batch_id, 0)
        committed = committed or checkpoint.committed_offsets(0)
        offsets = (committed or {}).get(self.topic) or checkpoint.remembered().get("starting_offsets") or {}
        return {int(partition): int(offset) for partition, offset in offsets.items()}

    def _describe(self, admin: AdminClient) -> tuple[str, Offsets, Offsets]:
        topic_id, partitions = self._partitions(admin)
        earliest = self._offsets(admin, partitions, OffsetSpec.earliest())
        return topic_id, earliest, self._offsets(admin, partitions, OffsetSpec.latest())

    def _end(self, admin: AdminClient) -> list[Any]:
        topic_id, partitions = self._partitions(admin)
        ends = self._offsets(admin, partitions, OffsetSpec.latest())
        return [topic_id, {str(partition): offset for partition, offset in sorted(ends.items())}]

    def _partitions(self, admin: AdminClient) -> tuple[str, list[TopicPartition]]:
        described = admin.describe_topics(TopicCollection([self.topic]), request_timeout=_ANSWER_WITHIN)
        topic = described[self.topic].result()
        return str(topic.topic_id), [TopicPartition(self.topic, info.id) for info in topic.partitions]

    def _offsets(self, admin: AdminClient, partitions: list[TopicPartition], which: OffsetSpec) -> Offsets:
        asked = admin.list_offsets(dict.fromkeys(partitions, which), request_timeout=_ANSWER_WITHIN)
        return {partition.partition: answer.result().offset for partition, answer in asked.items()}

    def _ask(self, question: Callable[[AdminClient], T]) -> T:
        try:
            return question(_admin(self.kafka))
        except KafkaException as error:
            raise self._explain(error.args[0]) from error

    def _explain(self, error: KafkaError) -> StreamsError:
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return UnavailableError(
                "KAFKA_TOPIC_MISSING",
                f"There is no topic {self.topic!r} at {self.kafka.bootstrap_servers}.",
                way_out="Create it, or set kafka.topics in the configuration.",
                topic=self.topic,
            )
        return UnavailableError(
            "KAFKA_UNREACHABLE",
            f"Kafka at {self.kafka.bootstrap_servers} does not answer ({error.str()}).",
            way_out="Check kafka.bootstrap_servers and that the broker runs.",
        )

    def _loss(self, code: str, message: str, **parameters: object) -> FatalError:
        way_out = f"To go on with what is there: streams resume {self.flow} --accept-loss"
        return FatalError(code, message, way_out=way_out, topic=self.topic, **parameters)


_admins: dict[str, AdminClient] = {}


def _admin(kafka: KafkaSettings) -> AdminClient:
    """One client a cluster and process: each has threads and connections of its own."""
    if kafka.bootstrap_servers not in _admins:
        # Its own reports of a broker that is away would fill the log; the answers' errors are reported by us.
        quiet = {"log_level": 0, "error_cb": lambda _: None}
        _admins[kafka.bootstrap_servers] = AdminClient(kafka.client_options() | quiet)
    return _admins[kafka.bootstrap_servers]


def _per_partition(counts: Offsets) -> str:
    return ", ".join(f"partition {partition}: {count}" for partition, count in sorted(counts.items()))


def _is_finding_coordinator(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in (
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    )
