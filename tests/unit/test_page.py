"""The status page: what it shows of a report, whom it lets in, and that nothing on it is what somebody sent."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from streams.errors import ConfigurationError
from streams.secrets import SecretReference
from streams.settings import PageSettings, load_settings
from streams.supervisor.control import Change, Process
from streams.supervisor.page.lanes import Violation
from streams.supervisor.page.recent import Recent
from streams.supervisor.page.whereabouts import Found
from streams.telemetry.events import BatchDone
from tests.unit.page_bench import Stand, batch, check, declared, ill, lane_row, minutes_ago, stand, well

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "correct horse battery staple"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Stand]:
    with stand(tmp_path) as made:
        yield made


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Stand]:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with stand(tmp_path, PageSettings(port=0, token=SecretReference(f"file:{file}"))) as made:
        yield made


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.partition("<main")[2]))


# What an operator must find.


def test_what_needs_a_person_comes_first_by_urgency_with_its_way_out(page: Stand) -> None:
    page.say(
        silver__orders=ill("held", "Batch 9 fails: row_count < 10 (found 11).", "BATCH_HELD", way_out="Mend the rows."),
        silver__fx_rates=ill("failed", "It was cut.", "KAFKA_OFFSETS_BEYOND_END", way_out="streams resume it"),
        bronze__crm_accounts=ill("backing off", "Salesforce does not answer.", failures=3),
        redshift__dim_customer=well(33, state="paused"),
        gold__fact_orders=well(),
    )
    page.control.pause("redshift.dim_customer")
    page.gate("silver", "last-night", 600, orders="fail", customers="pass")
    page.recent.count_lanes({"bronze.order_events": 4})
    needs = page.get("/api/status").json()["needs"]
    assert [need["title"] for need in needs] == [
        "silver.fx_rates has failed",
        "silver.orders holds a batch",
        "silver’s gate failed",
        "bronze.crm_accounts is backing off",
        "redshift.dim_customer is paused",
        "4 rows wait in the error lane",
    ]
    shown = text_of(page.get("/").text)
    for said in (
        "It was cut.",
        "streams resume it",
        "silver.orders: no orders without a day",
        "Failed 3 times in a row",
    ):
        assert said in shown
    assert shown.index("silver.fx_rates has failed") < shown.index("4 rows wait in the error lane")


def test_a_calm_service_says_so(page: Stand) -> None:
    page.say(**{flow.replace(".", "__"): well() for flow in all_names()})
    shown = text_of(page.get("/").text)
    assert "Nothing. All flows go on by themselves." in shown
    assert "Every flow has all that is upstream of it." in shown


def all_names() -> list[str]:
    return [flow.name for flow in declared()]


def test_every_flow_is_in_the_picture_with_its_state_in_words(page: Stand) -> None:
    page.say(**{flow.replace(".", "__"): well() for flow in all_names()})
    html = page.get("/").text
    for flow in all_names():
        assert re.search(rf'href="/flows/{flow}"[^>]*aria-label="{flow}: waiting', html), flow
    assert html.count('class="edge') >= len(all_names())


def test_which_flow_is_behind_and_by_how_much(page: Stand) -> None:
    page.say(bronze__fx_rates=well(1), silver__fx_rates=ill("failed", "It broke."))
    page.recent(BatchDone("run", batch("silver.fx_rates", 1, 30)))
    page.recent(BatchDone("run", batch("bronze.fx_rates", 1, 31)))  # was read by the batch above
    page.recent(BatchDone("run", batch("bronze.fx_rates", 2, 20, rows_written=500)))
    page.recent(BatchDone("run", batch("bronze.fx_rates", 3, 5, rows_written=40)))
    flows = {flow["name"]: flow for flow in page.get("/api/status").json()["flows"]}
    assert flows["silver.fx_rates"]["rows_behind"] == 540
    assert flows["silver.fx_rates"]["freshness"] == "20 min behind, 540 rows"
    assert flows["bronze.fx_rates"]["freshness"] == "current"
    assert "Furthest behind: silver.fx_rates , 20 min, about 540 rows." in text_of(page.get("/").text)


def test_the_rate_is_that_of_the_last_minute(page: Stand) -> None:
    page.say(bronze__fx_rates=well(state="running"))
    page.recent(BatchDone("run", batch("bronze.fx_rates", 1, 5, rows_written=9_000_000)))
    page.recent(BatchDone("run", batch("bronze.fx_rates", 2, 0.5, rows_written=1190)))
    flow = next(one for one in page.get("/api/status").json()["flows"] if one["name"] == "bronze.fx_rates")
    assert flow["rate"] == pytest.approx(1200 / 60)


def test_a_flow_whose_process_says_nothing_more_is_held_by_nobody(page: Stand) -> None:
    page.say(silver__orders=well())
    silent = Process("other", "etl-2", 4711, minutes_ago(0).isoformat())  # long ago by the machine's clock
    page.control.say(silent, {"gold.fact_orders": replace(well(state="running"), holder="other")}, ())
    flows = {flow["name"]: flow for flow in page.get("/api/status").json()["flows"]}
    assert flows["gold.fact_orders"]["state"] == "gone"
    assert flows["silver.orders"]["state"] == "waiting"
    assert flows["gold.dim_product"]["state"] == "unknown"
    assert "gold.fact_orders is held by nobody" in text_of(page.get("/").text)
    assert "process 4711 on etl-2" in text_of(page.get("/flows/gold.fact_orders").text)


def test_a_flow_accounts_for_its_rows_batch_by_batch(page: Stand) -> None:
    failing = (check("fail", "a rate is above 0", 3.0), check("pass", "there is a day"))
    page.say(
        [Change(minutes_ago(90).isoformat(), "silver.fx_rates", "held", "[BATCH_HELD] It waits.")],
        silver__fx_rates=well(state="paused"),
    )
    page.recent(BatchDone("run", batch("silver.fx_rates", 4, 3, checks=failing)))
    html = page.get("/flows/silver.fx_rates").text
    row = text_of("<main" + html.partition("<tbody>")[2].partition("</tbody>")[0])
    assert re.search(r"4 3 min ago 100 90 6 1 3", row), row
    assert "prepare 0.4 s, check 0.3 s, merge 1 s" in html
    shown = text_of(html)
    assert "a rate is above 0 found 3" in shown
    assert "1 of 2 not passed" in shown
    assert "[BATCH_HELD] It waits." in shown
    assert "Resume" in shown


def test_buttons_give_orders_in_the_name_of_who_pressed_them(page: Stand) -> None:
    page.say(silver__orders=well())
    assert page.post("/flows/silver.orders/pause").status_code == 200
    order = page.control.orders()["silver.orders"]
    assert (order.paused, order.by) == (True, "page, from 127.0.0.1")
    assert "It was told to pause by page, from 127.0.0.1" in text_of(page.get("/flows/silver.orders").text)
    page.post("/flows/silver.orders/resume")
    page.post("/flows/silver.orders/restart")
    order = page.control.orders()["silver.orders"]
    assert (order.paused, order.restarts) == (False, 1)
    assert page.post("/flows/silver.nothing/pause").status_code == 404
    assert page.post("/flows/silver.orders/delete").status_code == 404


def test_which_check_failed_last_night_and_since_when(page: Stand) -> None:
    page.gate("silver", "before", 2000, orders="pass", customers="pass")
    page.gate("silver", "last-night", 600, orders="fail", customers="pass")
    page.gate("gold", "later", 590, fact_orders="pass")
    html = page.get("/gates").text
    shown = text_of(html)
    assert shown.index("no orders without a day") < shown.index("no customers without a day")
    assert "2 checks: 1 failed, 0 warned" in shown
    failed = html[html.index("no orders without a day") :]
    assert re.findall(r'title="[^"]*: (fail|pass)"', failed)[:2] == ["fail", "pass"]
    (page.folder / "results" / "silver" / "torn.json").write_text('{"layer"')
    assert page.get("/gates").status_code == 200


# The error lane.


def test_the_lane_is_browsed_by_flow_code_and_text_a_page_at_a_time(page: Stand) -> None:
    page.lanes.put(*(lane_row(f"{number:016x}", key=f"CD-{number}") for number in range(30)))
    page.lanes.put(lane_row("f" * 16, flow="silver.orders", violations=(Violation("check", None, "x"),), key="K"))
    first = page.get("/lane").text
    assert len(re.findall(r'name="row-', first)) == 25
    older = re.search(r'href="(/lane\?[^"]*from=25)"', first)
    assert older
    assert len(re.findall(r'name="row-', page.get(older[1]).text)) == 6
    assert re.findall(r'name="row-(\w+)', page.get("/lane?flow=silver.orders").text) == ["f" * 16]
    assert re.findall(r'name="row-(\w+)', page.get("/lane?code=check").text) == ["f" * 16]
    assert re.findall(r'name="row-(\w+)', page.get("/lane?text=cd-29").text) == [f"{29:016x}"]
    assert "No such row" in page.get("/lane?text=nothing+like+it").text


def test_a_row_is_shown_by_its_shape_and_revealed_only_when_asked_for(page: Stand) -> None:
    page.lanes.put(lane_row("a" * 16))
    shown = page.get("/lane/" + "a" * 16).text
    assert "Jane" not in shown
    assert "9x9x,xx-99,9,xxxxxxx,xxxx xxx,xxxxxx" in shown
    assert "order_events/2/4711" in shown
    assert page.get(f"/lane/{'a' * 16}/reveal").status_code == 405
    with capture_logs() as logged:
        revealed = page.post(f"/lane/{'a' * 16}/reveal")
    assert [(line["event"], line["by"]) for line in logged] == [
        ("a row of the error lane was revealed", "page, from 127.0.0.1")
    ]
    assert "Jane" not in str(logged)
    assert "Jane Doe" in revealed.text
    assert revealed.headers["cache-control"] == "no-store"


def test_a_row_is_replayed_once_mended_and_by_whom_is_kept(page: Stand) -> None:
    page.lanes.put(lane_row("a" * 16))
    done = page.post(
        f"/lane/{'a' * 16}/replay", {"is_mended": "on", "payload": "4f3c,CD-17,1\r\ncreated", "note": "a typo"}
    )
    assert "Replayed" in text_of(done.text)
    assert "It has arrived" in text_of(done.text)
    (settled,) = page.lanes.settled
    assert (settled.payload, settled.note) == (b"4f3c,CD-17,1\ncreated", "a typo (page, from 127.0.0.1)")
    again = page.post(f"/lane/{'a' * 16}/replay")
    assert "it no longer waits" in text_of(again.text)


def test_what_is_not_said_to_be_mended_is_replayed_as_it_came(page: Stand) -> None:
    page.lanes.put(lane_row("a" * 16))
    page.post(f"/lane/{'a' * 16}/replay", {"payload": "left in the box"})
    assert page.lanes.settled[0].payload is None


def test_rows_are_discarded_with_a_note_and_only_those_that_were_ticked(page: Stand) -> None:
    page.lanes.put(*(lane_row(sign * 16) for sign in "abc"))
    ticked = {f"row-{'a' * 16}": "on", f"row-{'b' * 16}": "on", "action": "discard"}
    refused = page.post("/lane?status=waiting", ticked)
    assert refused.status_code == 400
    assert "Why is it discarded?" in refused.text
    done = page.post("/lane?status=waiting", ticked | {"note": "test messages"})
    assert "2 rows changed" in text_of(done.text)
    assert {row.status for row in page.lanes.rows.values()} == {"discarded", "waiting"}
    assert page.lanes.rows["c" * 16].status == "waiting"


def test_a_row_that_is_not_there_is_said_not_to_be(page: Stand) -> None:
    missing = page.get("/lane/0123")
    assert missing.status_code == 404
    assert "ERROR_ID_UNKNOWN" in missing.text


def test_why_a_row_is_missing(page: Stand) -> None:
    page.say(
        bronze__order_events=well(),
        silver__order_events=ill("paused", ""),
        gold__fact_orders=well(),
        redshift__fact_orders=well(),
    )
    asked = ("event_id", "order_id", "customer_id")
    found = Found("bronze.order_events", 2, 0, minutes_ago(4), "order_events/2/17", ("order_id",), asked)
    gold = Found("gold.fact_orders", 0, asked=("order_id", "product_id"))
    page.lanes.where["CD-17"] = (found, Found("silver.order_events", 0, asked=asked), gold)
    shown = text_of(page.get("/find?key=CD-17").text)
    assert "bronze.order_events 2 rows, by order_id. Newest 4 min ago , from order_events/2/17" in shown
    assert "silver.order_events Not there yet: its flow is paused." in shown
    assert "gold.fact_orders" not in shown  # nothing has come so far
    page.lanes.where["CD-20"] = (found, replace(found, flow="silver.order_events"), gold)
    shown = text_of(page.get("/find?key=CD-20").text)
    assert "gold.fact_orders Not there, and its flow has read all there is" in shown
    bronze, silver, _ = (replace(one, by=("event_id",)) for one in page.lanes.where["CD-20"])
    page.lanes.where["an event"] = (bronze, silver, gold)
    assert "gold.fact_orders" not in text_of(page.get("/find?key=an event").text)  # an event makes no order of its id
    page.lanes.put(lane_row("a" * 16, key="CD-18"))
    shown = text_of(page.get("/find?key=CD-18").text)
    assert "bronze.order_events Not there: it waits in the error lane." in shown
    assert "In no table and in no lane." in text_of(page.get("/find?key=CD-19").text)


# What programs ask for.


def test_programs_are_told_whether_it_lives_and_is_ready(tmp_path: Path) -> None:
    draining = False
    with stand(tmp_path, metrics=lambda: (b"streams_up 1\n", "text/plain"), is_draining=lambda: draining) as page:
        assert page.get("/healthz").status_code == 200
        assert page.get("/readyz").status_code == 503
        page.say(silver__orders=well())
        deadline_passes(lambda: page.get("/readyz").status_code == 200)
        draining = True
        assert page.get("/readyz").status_code == 503
        assert page.get("/metrics").content == b"streams_up 1\n"


def deadline_passes(is_so: Any) -> None:
    import time

    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_metrics_there_are_none(page: Stand) -> None:
    assert page.get("/metrics").status_code == 404


# Whom it lets in.


NASTY = "<script>alert('x')</script>"


def test_nothing_that_was_sent_becomes_part_of_the_page(page: Stand) -> None:
    page.say(
        [Change(minutes_ago(3).isoformat(), "silver.orders", "failed", NASTY)],
        silver__orders=ill("failed", f"It said {NASTY}", way_out=NASTY),
    )
    page.recent(BatchDone("run", batch("silver.orders", 1, 1, checks=(check("fail", NASTY),))))
    row = lane_row(
        "a" * 16, key=NASTY, source=NASTY, violations=(Violation(NASTY, NASTY, NASTY),), payload=NASTY.encode()
    )
    page.lanes.put(row, replace(row, error_id="b" * 16, status="discarded", status_note=NASTY))
    page.control.pause("silver.orders")
    paths = ["/", "/flows/silver.orders", "/lane?status=all", f"/lane/{'b' * 16}", f"/lane/{'a' * 16}", "/gates"]
    paths += [f"/find?key={NASTY}", f"/lane?text={NASTY}&code={NASTY}", f"/flows/{NASTY}", f"/?said={NASTY}"]
    for path in paths:
        html = page.get(path).text
        assert "alert('" not in html, path
        assert "<script>" not in html, path
    assert "&lt;script&gt;alert(" in page.post(f"/lane/{'a' * 16}/reveal").text


def test_secrets_and_addresses_in_errors_are_masked(page: Stand, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2-hunter2")
    SecretReference(f"file:{file}").resolve()
    page.say(
        silver__orders=ill("failed", "no login with hunter2-hunter2, password=abc for jane@example.org"),
        silver__customers=ill("failed", "The value 'Jane Doe' can't be cast.", "FLOW_FAILED"),
    )
    for path in ("/", "/flows/silver.orders", "/flows/silver.customers", "/api/status"):
        shown = page.get(path).text
        for secret in ("hunter2", "abc for", "jane@", "Jane"):
            assert secret not in shown, (path, secret)
    assert "xxxx xxx" in page.get("/").text


def test_headers_keep_other_sites_and_scripts_out(page: Stand) -> None:
    for path in ("/", "/static/page.css", "/healthz", "/nothing"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    html = page.get("/").text
    assert not re.search(r'(src|href)="(https?:)?//', html)
    assert not re.search(r'\s(on\w+|style)="', html)


def test_a_name_that_a_stranger_gave_to_the_loopback_is_refused(page: Stand) -> None:
    assert page.get("/", headers={"Host": "evil.example:8080"}).status_code == 421
    assert page.get("/api/status", headers={"Host": "127.0.0.1.evil.example"}).status_code == 421
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert page.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({"csrf": ""}, {}),
        ({"csrf": "0" * 64}, {}),
        ({}, {"Origin": "http://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
        ({}, {"Sec-Fetch-Site": "same-site"}),
    ],
)
def test_only_the_page_itself_changes_something(page: Stand, form: dict[str, str], headers: dict[str, str]) -> None:
    assert page.post("/flows/silver.orders/pause", form, headers=headers).status_code == 403
    assert page.control.orders() == {}


def test_a_form_of_one_browser_is_of_no_use_to_another(page: Stand) -> None:
    stolen = page.csrf("/flows/silver.orders")
    page.browser.cookies.clear()
    assert page.post("/flows/silver.orders/pause", {"csrf": stolen}).status_code == 403
    page.browser.cookies.clear()
    answer = page.browser.post(page.address + "flows/silver.orders/pause", data={"csrf": stolen}, timeout=20)
    assert answer.status_code == 403
    assert page.control.orders() == {}


def test_what_is_too_long_is_not_read(page: Stand) -> None:
    assert page.post("/flows/silver.orders/pause", {"note": "x" * 3_000_000}).status_code == 413


def test_with_a_token_nothing_is_shown_without_it(locked: Stand) -> None:
    for path in ("/", "/flows/silver.orders", "/lane", "/find?key=1", "/gates", "/api/status", "/metrics"):
        assert locked.get(path).status_code == 401, path
        page = locked.get(path, headers={"Accept": "text/html"})
        assert page.url.startswith(locked.address + "login?next="), path
        assert "Error lane" not in page.text
    assert locked.get("/healthz").status_code == 200
    assert locked.browser.post(locked.address + "flows/silver.orders/pause", timeout=20).status_code == 401


def test_programs_send_the_token(locked: Stand) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.get("/api/status", headers=right).status_code == 200
    assert locked.get("/api/status", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert locked.get("/api/status", headers={"Authorization": TOKEN}).status_code == 401
    done = locked.browser.post(locked.address + "flows/silver.orders/pause", headers=right, timeout=20)
    assert done.json() == {"done": "pause"}
    assert locked.control.orders()["silver.orders"].by == "token, from 127.0.0.1"


def log_in(page: Stand, token: str, **form: str) -> Any:
    return page.browser.post(
        page.address + "login", data={"csrf": page.csrf("/login"), "token": token} | form, timeout=20
    )


def test_people_log_in_once_and_what_they_do_has_their_name(locked: Stand) -> None:
    wrong = log_in(locked, "wrong")
    assert wrong.url.startswith(locked.address + "login")
    assert "That is not the token" in wrong.text
    before = locked.browser.cookies.copy()
    done = log_in(locked, TOKEN, name="Ada", next="/gates")
    assert done.url == locked.address + "gates"
    cookie = next(iter(locked.browser.cookies))
    assert cookie.value not in [one.value for one in before]
    assert TOKEN not in str(cookie.value)
    (raised,) = [one for one in done.history if "set-cookie" in one.headers]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(raised.headers["set-cookie"].split("; "))
    locked.post("/flows/silver.orders/pause")
    assert locked.control.orders()["silver.orders"].by == "Ada, from 127.0.0.1"
    locked.post("/logout")
    assert locked.get("/").status_code == 401


def test_tokens_are_not_guessed_quickly(locked: Stand) -> None:
    for _ in range(10):
        log_in(locked, "wrong")
    assert "login" in log_in(locked, TOKEN).url


@pytest.mark.parametrize("there", ["https://evil.example/", "//evil.example/", "/\\evil.example", "evil"])
def test_a_login_leads_nowhere_else(locked: Stand, there: str) -> None:
    assert log_in(locked, TOKEN, next=there).url == locked.address


def test_a_link_on_another_site_does_not_log_out(locked: Stand) -> None:
    log_in(locked, TOKEN)
    known = {one.name: one.value for one in locked.browser.cookies}
    strange = {"Sec-Fetch-Site": "cross-site", "Accept": "text/html", "Cookie": ""}
    answer = locked.get("/gates", headers=strange)
    assert "refresh" in answer.text
    assert "set-cookie" not in answer.headers
    assert {one.name: one.value for one in locked.browser.cookies} == known
    assert locked.get("/gates").status_code == 200


# Where it listens.


def test_beyond_the_loopback_it_asks_for_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "etl-1.example", "10.0.0.7"):
        with pytest.raises(ConfigurationError, match=r"page\.token must be set") as caught:
            load_settings("dev", None, {"STREAMS__PAGE__HOST": host}, check_secrets=False)
        assert caught.value.code == "SETTINGS_INVALID"
        token = {"STREAMS__PAGE__TOKEN": "env:PAGE_TOKEN"}
        assert not load_settings("dev", None, {"STREAMS__PAGE__HOST": host} | token, check_secrets=False).page.is_local
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.53"):
        assert load_settings("dev", None, {"STREAMS__PAGE__HOST": host}, check_secrets=False).page.is_local
    off = {"STREAMS__PAGE__HOST": "0.0.0.0", "STREAMS__PAGE__ENABLED": "false"}
    assert not load_settings("dev", None, off, check_secrets=False).page.enabled
    missing = {"STREAMS__PAGE__HOST": "0.0.0.0", "STREAMS__PAGE__TOKEN": f"file:{tmp_path / 'none'}"}
    with pytest.raises(ConfigurationError) as caught:
        load_settings("dev", None, missing)
    assert caught.value.code == "SECRET_MISSING"


def test_a_port_that_is_taken_is_named_with_the_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError) as caught, stand(tmp_path, PageSettings(port=taken.getsockname()[1])):
            pass
    assert caught.value.code == "PAGE_PORT_BUSY"
    assert "127.0.0.1:" in caught.value.message
    assert "page.port" in str(caught.value.way_out)


def test_a_page_that_has_ended_has_left_its_port(tmp_path: Path) -> None:
    with stand(tmp_path) as page:
        port = int(page.address.rstrip("/").rpartition(":")[2])
        assert page.get("/healthz").status_code == 200
    with stand(tmp_path, PageSettings(port=port)) as page:
        assert page.get("/healthz").status_code == 200


def test_rows_that_come_while_the_older_ones_are_counted_are_counted_too() -> None:
    recent = Recent()
    recent(BatchDone("run", batch("bronze.fx_rates", 1, 5, rows_error=3)))
    recent.count_lanes({"bronze.fx_rates": 4})
    recent(BatchDone("run", batch("bronze.fx_rates", 2, 4, rows_error=2)))
    assert recent.waiting("bronze.fx_rates") == 9
    recent.settled("bronze.fx_rates", 6)
    assert recent.waiting("bronze.fx_rates") == 3
    assert recent.waiting("bronze.order_events") == 0
