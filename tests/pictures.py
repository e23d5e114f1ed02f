"""Makes the pictures of the status page for the README: ``python -m tests.pictures [ORDERS]``.

A real service on the demo's stack and data, with faults made for it: a broker that is stopped, a rate with its point in
the wrong place, a check of last night that failed, a flow that somebody paused.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import time
import zlib
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console

from streams.flows import all_flows
from streams.jobs import run_job
from streams.local.broker import Broker
from streams.local.demo import TOPIC, _make_place, _settings
from streams.local.producer import send_replay
from streams.local.replay import plan_replay
from streams.local.shop import make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.supervisor.page.recent import Recent
from streams.supervisor.page.server import page_of
from streams.supervisor.service import started
from streams.supervisor.supervisor import Supervisor
from tests.browser import browser

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from streams.settings import Settings

PICTURES: Final = PROJECT / ".github" / "pictures"
MOST_BYTES: Final = 150_000
_PLACE: Final = PROJECT / ".streams" / "pictures"
_SEND_SECONDS: Final = 60.0
_COLOURS: Final = 256


def main(orders: int) -> None:
    _make_place(_PLACE, {"orders": orders, "seed": 7}, keep=False)
    plan, shop = plan_replay(7, orders), make_shop(7, orders)
    out, recent = Console(), Recent()
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(_PLACE / "broker"))
        broker.create_topic(TOPIC, 4)
        sources = stack.enter_context(ShopSources(_PLACE / "sources", load_contracts(PROJECT / "contracts" / "bronze")))
        sources.fill(shop)
        settings = _with_faults_to_come(_settings(_PLACE, broker.bootstrap_servers, sources), len(plan.files))
        service = stack.enter_context(started(settings, (recent,)))
        supervisor = Supervisor(all_flows(settings).values(), service)
        supervisor.start()
        address = stack.enter_context(page_of(service, recent, out.print))
        assert address is not None
        send_replay(plan, broker.bootstrap_servers, TOPIC, _PLACE / "landing", seconds=_SEND_SECONDS)
        out.print("sent")
        _until(lambda: all(one.batches and one.state == "waiting" for one in supervisor.reports().values()))
        out.print("all flows are through")
        run_job("dq_gold_gate", service)
        run_job("dq_silver_gate", service)
        _add_check("silver/orders.gate.yml", "row_count > 100000:\n      name: no fewer orders than last month")
        # A gate names its file after the run: the same service would write over the first one's.
        run_job("dq_silver_gate", replace(service, run_id="7c1e5a90d2b4"))
        supervisor.control.pause("snowflake.dim_customer")
        _land_a_wrong_rate(_PLACE / "landing")
        _until(lambda: supervisor.states()["silver.fx_rates"].value == "held")
        broker.stop()
        _until(lambda: supervisor.states()["bronze.order_events"].value == "backing off")
        out.print("all is wrong that is to be")
        try:
            _take(address)
        finally:
            supervisor.drain(60)


def _with_faults_to_come(settings: Settings, files: int) -> Settings:
    """What the demo has, in several batches, and a check that a wrong rate will fail."""
    contracts = _PLACE / "contracts"
    shutil.copytree(PROJECT / "contracts", contracts)
    _add_check("silver/fx_rates.yml", "max(rate) < 100000:\n      name: no rate is beyond all bounds")
    own = {
        "bronze.fx_rates": {"max_files_per_batch": files // 6 + 1},
        "silver.fx_rates": {"max_files_per_batch": 1, "on_breach": "hold"},
    }
    flows = {name: settings.flow(name).model_copy(update=changes) for name, changes in own.items()}
    return settings.model_copy(update={"contracts_root": str(contracts), "flows": dict(settings.flows) | flows})


def _add_check(name: str, check: str) -> None:
    with (_PLACE / "contracts" / "soda" / name).open("a") as file:
        file.write(f"\n  - {check}\n")


def _land_a_wrong_rate(folder: Path) -> None:
    row = {"rate_date": "2026-06-30", "base_currency": "EUR", "published_at": "2026-06-30T15:00:00Z"}
    rows = [row | {"quote_currency": "USD", "rate": 1143000}, row | {"quote_currency": "CHF", "rate": 0.94}]
    draft = folder / ".draft"
    draft.write_text("\n".join(map(json.dumps, rows)))
    draft.rename(folder / "2026-06-30.json")


def _take(address: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1440, "height": 960}, color_scheme="light")
        page.goto(address)
        _keep(page, "flows.png")
        page.goto(f"{address}flows/silver.fx_rates")
        _keep(page, "flow.png")
        page.goto(f"{address}lane?flow=bronze.order_events")
        page.get_by_role("row").nth(2).get_by_role("link").first.click()
        page.wait_for_url("**/lane/*")
        _keep(page, "lane.png")
        page.goto(f"{address}gates")
        _keep(page, "gates.png")
        page.close()
        page = opened.new_page(viewport={"width": 375, "height": 812}, color_scheme="dark", device_scale_factor=2)
        page.goto(address)
        _keep(page, "phone.png")
        page.close()


def _keep(page: Page, name: str) -> None:
    """A picture of 256 colours: a page has not many more, and the file is a third as large."""
    picture = _few_colours(page.screenshot())
    assert len(picture) < MOST_BYTES, (name, len(picture))
    (PICTURES / name).write_bytes(picture)


def _few_colours(png: bytes) -> bytes:
    pixels = _pixels(png)
    height, width, _ = pixels.shape
    flat = pixels.reshape(-1, 3).astype(np.int32)
    codes = flat[:, 0] << 16 | flat[:, 1] << 8 | flat[:, 2]
    colours, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    # The colours of plain areas as they are; of letters' edges the commonest, rounded so that they are not all grey.
    plain = np.argsort(-counts)[: _COLOURS // 2]
    edges, often = np.unique(rgb & 0xE0 | 0x10, axis=0, return_inverse=True)
    weight = np.bincount(often.reshape(-1), weights=counts)
    palette = np.concatenate([rgb[plain], edges[np.argsort(-weight)[: _COLOURS - len(plain)]]])
    nearest = ((rgb[:, None, :] - palette[None, :, :]) ** 2).sum(axis=2).argmin(axis=1)
    rows = nearest[place.reshape(-1)].astype(np.uint8).reshape(height, width)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # each line unfiltered
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette.astype(np.uint8).tobytes()), (b"IDAT", zlib.compress(lines, 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in (*parts, (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pixels(png: bytes) -> np.ndarray:
    """The pixels of a PNG of 8 bits a colour, as Chromium writes it: height, width, red green blue."""
    at, data, width, height, depth = 8, b"", 0, 0, 3
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", body[:10])
            depth = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        at += length + 12
    raw = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * depth)
    lines = np.zeros((height, width, depth), np.uint8)
    for row in range(height):
        above = lines[row - 1] if row else np.zeros((width, depth), np.uint8)
        lines[row] = _unfiltered(int(raw[row, 0]), raw[row, 1:].reshape(width, depth), above)
    return lines[:, :, :3]


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0, dtype=np.uint32).astype(np.uint8)
    if kind == 2:
        return line + above
    found = np.zeros_like(line)
    left, corner = np.zeros(line.shape[1], np.int32), np.zeros(line.shape[1], np.int32)
    for column in range(len(line)):
        up = above[column].astype(np.int32)
        if kind == 3:
            guess = (left + up) // 2
        else:
            near = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
            guess = np.where(
                (near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner)
            )
        left, corner = (line[column].astype(np.int32) + guess) & 255, up
        found[column] = left
    return found


def _until(is_so: Callable[[], bool], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
