"""Several tables of Snowflake are asked at the same moment, each for its first result, in one process."""

from __future__ import annotations

import subprocess
import sys

# Without what the adapter does when it is imported, five of six such processes stand still for good.
_PROCESSES = 4
_EIGHT_FIRST_RESULTS = """
import faulthandler, io, sys, threading
import batch_adapters.snowflake
import pyarrow as pa
from snowflake.connector.arrow_context import ArrowConverterContext
from snowflake.connector.result_batch import IterUnit, _create_nanoarrow_iterator

number = {"logicalType": "FIXED", "precision": "38", "scale": "0"}  # as Snowflake says it
schema = pa.schema([pa.field("A", pa.int64(), metadata=number)])
stream, table = io.BytesIO(), pa.table([pa.array([1])], schema=schema)
with pa.ipc.new_stream(stream, schema) as out:
    out.write_table(table)
together, seen = threading.Barrier(8), []

def read():
    together.wait()
    rows = _create_nanoarrow_iterator(
        stream.getvalue(), ArrowConverterContext(), False, False, False, IterUnit.ROW_UNIT
    )
    seen.append(next(rows))

sys.setswitchinterval(1e-6)
faulthandler.dump_traceback_later(60, exit=True)
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(seen)
"""


def test_no_thread_waits_for_another_for_ever() -> None:
    command = [sys.executable, "-c", _EIGHT_FIRST_RESULTS]
    for _ in range(_PROCESSES):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{[(1,)] * 8}\n"
