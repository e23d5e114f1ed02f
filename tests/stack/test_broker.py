"""The embedded broker and the replay into it, seen by an independent client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from streams.errors import FatalError, RetriableError
from streams.local.broker import Broker
from streams.local.producer import send_messages, send_replay
from streams.local.replay import plan_replay
from tests.stack.reading import read_topic

_OWNER = """
import sys, pathlib, signal
from streams.local.broker import Broker
broker = Broker(pathlib.Path(sys.argv[1]))
broker.start()
print(broker.process_id, flush=True)
signal.pause()
"""


def _runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_broker_holds_what_the_plan_says_byte_for_byte(broker: Broker, topic: str, tmp_path: Path) -> None:
    plan = plan_replay(seed=3, limit=400)
    broker.create_topic(topic, partitions=4)
    send_replay(plan, broker.bootstrap_servers, topic, tmp_path / "landing")

    held = read_topic(broker.bootstrap_servers, topic)
    assert Counter((one.key, one.value) for one in held) == Counter((sent.key, sent.value) for sent in plan.messages)
    assert len({one.partition for one in held}) == 4
    places: dict[bytes | None, set[int]] = {}
    for one in held:
        places.setdefault(one.key, set()).add(one.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert {file.name: file.read_bytes() for file in (tmp_path / "landing").iterdir()} == {
        file.name: file.content for file in plan.files
    }


def test_events_of_an_order_keep_their_order_of_arrival(broker: Broker, topic: str) -> None:
    messages = plan_replay(seed=4, limit=50).messages
    broker.create_topic(topic, partitions=3)
    send_messages(messages, broker.bootstrap_servers, topic)
    held = sorted(read_topic(broker.bootstrap_servers, topic), key=lambda one: (one.partition, one.offset))
    for key in {message.key for message in messages}:
        assert [one.value for one in held if one.key == key] == [sent.value for sent in messages if sent.key == key]


def test_what_cannot_be_delivered_is_an_error(broker: Broker, topic: str) -> None:
    with pytest.raises(RetriableError) as caught:
        send_messages(plan_replay(seed=5, limit=5).messages, broker.bootstrap_servers, topic)
    assert caught.value.code == "REPLAY_NOT_DELIVERED"


def test_topic_is_made_once_and_is_gone_when_deleted(broker: Broker, topic: str) -> None:
    broker.create_topic(topic, partitions=2, config={"retention.ms": "-1"})
    with pytest.raises(RetriableError) as caught:
        broker.create_topic(topic)
    assert caught.value.code == "TOPIC_NOT_MADE"
    broker.delete_topic(topic)
    with pytest.raises(RetriableError) as caught:
        broker.delete_topic(topic)
    assert caught.value.code == "TOPIC_NOT_DELETED"
    broker.create_topic(topic, partitions=1)
    assert read_topic(broker.bootstrap_servers, topic) == []


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_broker_listens_on_the_loopback_alone(broker: Broker) -> None:
    links = (str(link.readlink()) for link in Path(f"/proc/{broker.process_id}/fd").iterdir() if link.is_symlink())
    own = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in own}
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening
    assert listening <= loopback


def test_killed_broker_comes_back_with_its_data_at_the_same_address(tmp_path: Path, topic: str) -> None:
    messages = plan_replay(seed=6, limit=100).messages
    first = Broker(tmp_path / "broker")
    first.start()
    try:
        first.create_topic(topic, partitions=2)
        send_messages(messages, first.bootstrap_servers, topic)
        before = read_topic(first.bootstrap_servers, topic)
    finally:
        first.kill()
    assert first.process_id is None
    with Broker(tmp_path / "broker") as second:
        assert second.bootstrap_servers == first.bootstrap_servers
        after = read_topic(second.bootstrap_servers, topic)
    order = [(one.partition, one.offset, one.key, one.value) for one in before]
    assert sorted(order, key=lambda one: one[:2]) == sorted(
        ((one.partition, one.offset, one.key, one.value) for one in after), key=lambda one: one[:2]
    )
    assert len(after) == len(messages)


def test_broker_ends_with_the_process_that_started_it_and_its_folder_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    with subprocess.Popen([sys.executable, "-c", _OWNER, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        process_id = int(owner.stdout.readline())
        assert _runs(process_id)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _runs(process_id):
        assert time.monotonic() < deadline, "the broker outlived its owner"
        time.sleep(0.05)
    with Broker(folder) as again:
        assert again.process_id != process_id


def test_folder_is_held_by_one_broker(broker: Broker) -> None:
    with pytest.raises(FatalError) as caught:
        Broker(broker.folder).start()
    assert caught.value.code == "BROKER_IN_USE"
    assert broker.process_id is not None


def test_broker_that_cannot_start_says_why_from_its_log(broker: Broker, tmp_path: Path) -> None:
    # Another broker that was given the port of a running one.
    address = json.loads((broker.folder / "address.json").read_text())
    (tmp_path / "address.json").write_text(json.dumps(address | {"cluster_id": "AAAAAAAAAAAAAAAAAAAAAQ"}))
    unlucky = Broker(tmp_path)
    with pytest.raises(RetriableError) as caught:
        unlucky.start(timeout=30)
    assert caught.value.code == "BROKER_NOT_UP"
    assert "in use" in caught.value.message
    assert unlucky.process_id is None


def test_cluster_id_that_begins_with_a_dash_is_no_option(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    kept = json.loads((tmp_path / "address.json").read_text())
    (tmp_path / "address.json").write_text(json.dumps(kept | {"cluster_id": "-MkHqJ2sT0CnJ9VZ3Xn1bA"}))
    with Broker(tmp_path) as dashed:
        assert dashed.bootstrap_servers == broker.bootstrap_servers
        assert "-MkHqJ2sT0CnJ9VZ3Xn1bA" in (tmp_path / "data" / "meta.properties").read_text()
