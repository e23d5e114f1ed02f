"""Personal columns as silver holds them: kept, hashed under a key, or left out, as their contract says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

_BLOCK: Final = 64  # of SHA-256, in bytes
_INNER, _OUTER = 0x36, 0x5C  # RFC 2104


@dataclass(frozen=True)
class HashKey:
    """HMAC-SHA256 (RFC 2104) as an expression.

    The key is a local table of one row, read by scalar subqueries: unlike a literal it stands in no plan, and so
    in no log and no page of Spark's.
    """

    inner: Column
    outer: Column

    @classmethod
    def of(cls, spark: SparkSession, key: bytes) -> HashKey:
        """The key, of any length."""
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        pads = {name: [bytes(byte ^ pad for byte in block)] for name, pad in (("inner", _INNER), ("outer", _OUTER))}
        table = spark.createDataFrame(pa.table({name: pa.array(pad, pa.binary()) for name, pad in pads.items()}))
        return cls(table.select("inner").scalar(), table.select("outer").scalar())

    def hash(self, value: Column) -> Column:
        """The value's hash, 64 hexadecimal digits; null stays null, and is no one's."""
        inner = F.unhex(F.sha2(F.concat(self.inner, F.encode(value, "UTF-8")), 256))
        return F.sha2(F.concat(self.outer, inner), 256)
