"""Which columns make each column of a DataFrame, read from the plan that Spark has analyzed for it.

The plan is the truth about a transform: what is read here can't differ from what is run. Only `tagged` frames count
as sources; everything else in a plan (the key of a hash) is taken for a constant.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

_TAG: Final = "streams:"  # begins the alias of a tagged frame; no other way of marking it survives a self-join
# What happened to a value, the least first: of two ways to a column the greater one is told.
_DIRECT: Final = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
_HASHES: Final = frozenset({"Sha2", "Sha1", "Md5", "XxHash64", "Murmur3Hash", "Crc32"})
# Of these what comes out is one of the values that go in, whole: the fields of a struct stay apart.
_CHOOSING: Final = frozenset({"Coalesce", "Last", "First", "Max", "Min", "Lag", "Lead", "CollectList", "CollectSet"})
_OF_THE_GREATEST: Final = frozenset({"ArrayMax", "ArrayMin"})


@dataclass(frozen=True, order=True)
class Source:
    """A column of a tagged frame; `path` leads into a value that is itself a record, such as a line of CSV."""

    table: str
    column: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origins:
    """Where the values of a column come from.

    Attributes:
        direct: source → (``IDENTITY``, ``TRANSFORMATION`` or ``AGGREGATION``, whether it is hashed on the way).
        indirect: what decided which value it is: (source, ``CONDITIONAL``, ``WINDOW``, ``SORT`` or ``GROUP_BY``).
    """

    direct: Mapping[Source, tuple[str, bool]]
    indirect: frozenset[tuple[Source, str]]


@dataclass(frozen=True)
class PlanLineage:
    """The columns of a frame, and what decided which rows there are: (source, ``JOIN``, ``FILTER``, …)."""

    columns: Mapping[str, Origins]
    rows: frozenset[tuple[Source, str]]


def tagged(spark: SparkSession, table: str, schema: StructType) -> DataFrame:
    """An empty frame that is known again in any plan that is made of it."""
    return spark.emptyDataFrame(schema).alias(f"{_TAG}{table}")


def read_plan(frame: DataFrame) -> PlanLineage:
    """Read a frame's plan. No Spark job runs."""
    rows: set[tuple[Source, str]] = set()
    plan = frame._jdf.queryExecution().analyzed().toJSON()
    outputs = _Reader(rows).plan(_tree(iter(json.loads(plan))))
    return PlanLineage({one.name: _flat(one.value) for one in outputs}, frozenset(rows))


@dataclass(frozen=True)
class _Node:
    """A node of a plan or an expression: its class's name, its parameters, its children."""

    kind: str
    package: str
    said: Mapping[str, Any]
    children: tuple[_Node, ...]


@dataclass(frozen=True)
class _Value:
    """What is known of a value; `fields` where it is a struct (or an array of structs) whose fields are known."""

    direct: Mapping[Source, tuple[str, bool]] = field(default_factory=dict)
    indirect: frozenset[tuple[Source, str]] = frozenset()
    fields: Mapping[str, _Value] | None = None


@dataclass(frozen=True)
class _Output:
    id: int
    name: str
    value: _Value


_NOTHING: Final = _Value()


def _tree(nodes: Iterator[Mapping[str, Any]]) -> _Node:
    """Spark writes a tree as a list, each node before its children."""
    said = next(nodes)
    package, _, kind = str(said["class"]).rpartition(".")
    return _Node(kind, package, said, tuple(_tree(nodes) for _ in range(said["num-children"])))


def _trees(listed: Iterable[list[Mapping[str, Any]]] | None) -> list[_Node]:
    return [_tree(iter(nodes)) for nodes in listed or ()]


class _Reader:
    def __init__(self, rows: set[tuple[Source, str]]) -> None:
        self.rows = rows
        self.scope: dict[object, _Value] = {}

    # Plans: each gives its columns, in order.

    def plan(self, node: _Node) -> list[_Output]:
        below = [self.plan(child) for child in node.children]
        if not node.children:
            attributes = _trees(node.said.get("output"))
            return [_Output(one.said["exprId"]["id"], one.said["name"], _NOTHING) for one in attributes]
        self.scope.update({one.id: one.value for outputs in below for one in outputs})
        steps: dict[str, Callable[[_Node, list[list[_Output]]], list[_Output]]] = {
            "Project": lambda node, _: [self._named(one) for one in _trees(node.said["projectList"])],
            "Aggregate": self._aggregate,
            "Window": lambda node, below: below[0] + [self._named(e) for e in _trees(node.said["windowExpressions"])],
            "Join": self._join,
            "Union": lambda _, below: [_together(column) for column in zip(*below, strict=True)],
            "Generate": self._generate,
            "SubqueryAlias": _recognized,
        }
        self._decide(node)
        step = steps.get(node.kind)
        return step(node, below) if step else [one for outputs in below for one in outputs]

    def _decide(self, node: _Node) -> None:
        """Note what decides which rows there are."""
        for parameter, how in (("condition", "FILTER"), ("groupingExpressions", "GROUP_BY"), ("keys", "GROUP_BY")):
            said = node.said.get(parameter)
            if not said:
                continue
            how_here = "JOIN" if node.kind == "Join" else how
            for expression in _trees([said] if isinstance(said[0], dict) else said):
                self.rows.update((source, how_here) for source in _sources(self.value(expression)))

    def _named(self, node: _Node) -> _Output:
        return _Output(node.said["exprId"]["id"], node.said["name"], self.value(node))

    def _aggregate(self, node: _Node, _: list[list[_Output]]) -> list[_Output]:
        keys = [self.value(one) for one in _trees(node.said["groupingExpressions"])]
        groups = frozenset((source, "GROUP_BY") for key in keys for source in _sources(key))
        outputs = [self._named(one) for one in _trees(node.said["aggregateExpressions"])]
        # A count of rows is made of no column; what says which rows are counted together is all there is to tell.
        return [one if _sources(one.value) else _Output(one.id, one.name, _Value({}, groups)) for one in outputs]

    def _join(self, node: _Node, below: list[list[_Output]]) -> list[_Output]:
        is_half = "Semi" in str(node.said["joinType"]) or "Anti" in str(node.said["joinType"])
        return below[0] if is_half else below[0] + below[1]

    def _generate(self, node: _Node, below: list[list[_Output]]) -> list[_Output]:
        made = self.value(_tree(iter(node.said["generator"])))
        outputs = _trees(node.said["generatorOutput"])
        # Of a position nothing is told: it is no one's value.
        values = [_NOTHING] * (len(outputs) - 1) + [made]
        pairs = zip(outputs, values, strict=True)
        return below[0] + [_Output(one.said["exprId"]["id"], one.said["name"], value) for one, value in pairs]

    # Expressions: each gives what is known of its value.

    def value(self, node: _Node) -> _Value:
        forms: dict[str, Callable[[_Node], _Value]] = {
            "AttributeReference": lambda node: self.scope.get(node.said["exprId"]["id"], _NOTHING),
            "NamedLambdaVariable": lambda node: self.scope.get(node.said["exprId"]["id"], _NOTHING),
            "CommonExpressionRef": lambda node: self.scope.get(json.dumps(node.said["id"]), _NOTHING),
            "Alias": lambda node: self.value(node.children[0]),
            "AggregateExpression": lambda node: self.value(node.children[0]),
            "Cast": self._cast,
            "GetStructField": self._field,
            "VariantGet": self._variant,
            "CreateNamedStruct": self._struct,
            "CaseWhen": self._case,
            "If": lambda node: self._chosen(node.children[:1], node.children[1:]),
            "IsNull": self._is_there,
            "IsNotNull": self._is_there,
            "With": self._with,
            "MaxBy": self._best,
            "MinBy": self._best,
            "WindowExpression": self._over,
            "ArrayFilter": self._filtered,
            "ScalarSubquery": lambda node: self.plan(_tree(iter(node.said["plan"])))[0].value,
        }
        return forms.get(node.kind, self._made)(node)

    def _made(self, node: _Node) -> _Value:
        """Any other expression: all that goes in comes out, changed."""
        values = [self.value(child) for child in node.children]
        how = "AGGREGATION" if node.package.endswith(".aggregate") else "TRANSFORMATION"
        if node.kind in _CHOOSING:
            return _changed(_merged(values), how)
        if node.kind in _OF_THE_GREATEST:
            order = frozenset((source, "SORT") for source in _sources(values[0]))
            return _changed(_with_indirect(values[0], order), how)
        flat = _flat(_merged([_Value(*vars(_flat(value)).values()) for value in values]))
        return _changed(_Value(flat.direct, flat.indirect), how, is_hashed=node.kind in _HASHES)

    def _cast(self, node: _Node) -> _Value:
        (child,) = node.children
        value = self.value(child)
        return value if child.said.get("dataType") == node.said["dataType"] else _changed(value, "TRANSFORMATION")

    def _field(self, node: _Node) -> _Value:
        whole = self.value(node.children[0])
        if whole.fields is None:
            return _into(whole, str(node.said.get("name", node.said["ordinal"])))
        name = list(whole.fields)[node.said["ordinal"]]
        return _with_indirect(whole.fields[name], whole.indirect)

    def _variant(self, node: _Node) -> _Value:
        """A field of a record that came as JSON: ``$['name']``; ``$`` is the record itself."""
        record, path = node.children
        name = str(path.said["value"]).removeprefix("$").strip("['].")
        value = _changed(self.value(record), "TRANSFORMATION")
        return _into(value, name) if name else value

    def _struct(self, node: _Node) -> _Value:
        names, values = node.children[::2], node.children[1::2]
        pairs = zip(names, values, strict=True)
        return _Value(fields={str(name.said["value"]): self.value(one) for name, one in pairs})

    def _case(self, node: _Node) -> _Value:
        pairs = len(node.children) // 2 * 2
        rest = node.children[pairs:]
        return self._chosen(node.children[:pairs:2], (*node.children[1:pairs:2], *rest))

    def _chosen(self, conditions: Iterable[_Node], values: Iterable[_Node]) -> _Value:
        chosen = _changed(_merged([self.value(one) for one in values]), "TRANSFORMATION")
        asked = {(source, "CONDITIONAL") for one in conditions for source in _sources(self.value(one))}
        return _with_indirect(chosen, frozenset(asked))

    def _is_there(self, node: _Node) -> _Value:
        """Whether there is a struct does not depend on what is in it."""
        value = self.value(node.children[0])
        return _Value({}, value.indirect) if value.fields is not None else _changed(value, "TRANSFORMATION")

    def _with(self, node: _Node) -> _Value:
        """An expression that uses others by name: ``nullif`` and its like."""
        for one in node.children[1:]:
            self.scope[json.dumps(one.said["id"])] = self.value(one.children[0])
        return self.value(node.children[0])

    def _best(self, node: _Node) -> _Value:
        value, order = (self.value(child) for child in node.children)
        # Here the condition of an ordering counts too: it says of which rows the best is taken.
        by = frozenset((source, "SORT") for source in {*_sources(order), *(one for one, _ in _flat(order).indirect)})
        return _with_indirect(_changed(value, "AGGREGATION"), by)

    def _over(self, node: _Node) -> _Value:
        function, window = node.children
        asked = frozenset((source, "WINDOW") for source in _sources(self.value(window)))
        return _with_indirect(self.value(function), asked)

    def _filtered(self, node: _Node) -> _Value:
        array, function = node.children
        elements = self.value(array)
        body, element, *_ = function.children
        self.scope[element.said["exprId"]["id"]] = elements
        asked = frozenset((source, "CONDITIONAL") for source in _sources(self.value(body)))
        return _with_indirect(elements, asked)


def _recognized(node: _Node, below: list[list[_Output]]) -> list[_Output]:
    """The columns of a tagged frame are sources."""
    alias = str(node.said["identifier"]["name"])
    if not alias.startswith(_TAG):
        return below[0]
    table = alias.removeprefix(_TAG)
    return [_Output(one.id, one.name, _Value({Source(table, one.name): ("IDENTITY", False)})) for one in below[0]]


def _together(column: tuple[_Output, ...]) -> _Output:
    """A column of a union is called as in the first of its inputs."""
    return _Output(column[0].id, column[0].name, _merged([one.value for one in column]))


def _merged(values: list[_Value]) -> _Value:
    """One of these, it is not known which; a struct among them stays one where the others say nothing."""
    telling = [value for value in values if value != _NOTHING]
    if len(telling) == 1:
        return telling[0]
    indirect = frozenset(one for value in telling for one in value.indirect)
    if telling and all(value.fields is not None for value in telling):
        by_name: dict[str, list[_Value]] = defaultdict(list)
        for value in telling:
            for name, inner in (value.fields or {}).items():
                by_name[name].append(inner)
        return _Value({}, indirect, {name: _merged(inner) for name, inner in by_name.items()})
    direct: dict[Source, tuple[str, bool]] = {}
    for value in telling:
        flat = _flat(value)
        indirect |= flat.indirect
        for source, way in flat.direct.items():
            direct[source] = max(direct.get(source, way), way, key=lambda one: (_DIRECT.index(one[0]), one[1]))
    return _Value(direct, indirect)


def _flat(value: _Value) -> Origins:
    """All that a value is made of, whatever its shape. Its own source is not told as its condition too."""
    if value.fields is not None:
        inner = [_Value(*vars(_flat(one)).values()) for one in value.fields.values()]
        value = _with_indirect(_merged([one for one in inner if one != _NOTHING]), value.indirect)
    return Origins(value.direct, frozenset(one for one in value.indirect if one[0] not in value.direct))


def _sources(value: _Value) -> set[Source]:
    """What a value is made of. What decided in turn which value it is, is told where that value is a column's."""
    flat = _flat(value)
    return set(flat.direct) or {source for source, _ in flat.indirect}


def _changed(value: _Value, how: str, *, is_hashed: bool = False) -> _Value:
    if value == _NOTHING:
        return value
    direct = {
        source: (max(was, how, key=_DIRECT.index), was_hashed or is_hashed)
        for source, (was, was_hashed) in value.direct.items()
    }
    fields = None
    if value.fields is not None:
        fields = {name: _changed(inner, how, is_hashed=is_hashed) for name, inner in value.fields.items()}
    return _Value(direct, value.indirect, fields)


def _with_indirect(value: _Value, indirect: frozenset[tuple[Source, str]]) -> _Value:
    return _Value(value.direct, value.indirect | indirect, value.fields)


def _into(value: _Value, name: str) -> _Value:
    """A field of a value that is a record in one column."""
    direct = {Source(one.table, one.column, (*one.path, name)): way for one, way in value.direct.items()}
    return _Value(direct, value.indirect)
