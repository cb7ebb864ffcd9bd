"""The dashboard and the alarms in, their queries out, and what each of these asks a page for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml

from tests import ROOT
from tests.manifests import load

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
ALERTS = ROOT / "deploy" / "alerts.yml"

FILLED_IN = {"$model": ".*", "$__rate_interval": "1m"}
"""What Grafana puts into a query: here every model, and a step of its own."""

ADDED = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus gives to whatever it collects, in a cluster the last two as well."""


@dataclass(frozen=True)
class Query:
    """A query of a panel or an alarm.

    Attributes:
        title: of the panel or the alarm.
        text: as Prometheus gets it.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Selector:
    """Series that a query asks for: a metric's name, and as many as its labels' values allow."""

    metric: str
    equal: dict[str, str]
    labels: frozenset[str]


def panels() -> list[dict[str, Any]]:
    """The dashboard's, without the headings of its rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def dashboard_queries() -> list[Query]:
    queries = []
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in FILLED_IN.items():
                text = text.replace(name, value)
            queries.append(Query(panel["title"], text))
    return queries


def alarms() -> dict[str, str]:
    """The alarms' expressions by name."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def alarm_queries() -> list[Query]:
    return [Query(name, expression) for name, expression in alarms().items()]


def scaling_queries() -> list[Query]:
    """What each autoscaler of deploy/kubernetes asks."""
    keda = load("keda/scaled-object.yaml")["spec"]["triggers"][0]["metadata"]["query"]
    predictor = load("kserve/inference-service.yaml")["spec"]["predictor"]
    kserve = predictor["autoScaling"]["metrics"][0]["external"]["metric"]["query"]
    (rule,) = load("hpa/prometheus-adapter.yaml")["rules"]
    # As prometheus-adapter fills it in, which looks for the series first.
    series, matchers = rule["seriesQuery"].rstrip("}").split("{")
    adapter = rule["metricsQuery"]
    for placeholder, text in {
        "Series": series,
        "LabelMatchers": matchers,
        "GroupBy": "pod",
    }.items():
        adapter = adapter.replace(f"<<.{placeholder}>>", text)
    return [Query("KEDA", keda), Query("KServe", kserve), Query("prometheus-adapter", adapter)]


def selectors(text: str) -> list[Selector]:
    """Every selector of a query, wherever in it."""
    found = []
    for node in _nodes(promql_parser.parse(text)):
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers.matchers
            equal = {m.name: m.value for m in matchers if m.op == promql_parser.MatchOp.Equal}
            found.append(Selector(node.name, equal, frozenset(m.name for m in matchers)))
    return found


def groupings(text: str) -> list[tuple[set[str], list[Selector]]]:
    """The labels that a query groups by, each time with the selectors that they are taken from."""
    return [
        (set(node.modifier.labels), selectors(node.expr.prettify()))
        for node in _nodes(promql_parser.parse(text))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier
    ]


def _nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(expression, nodes.append)
    return nodes


class Page:
    """A page of metrics, in Prometheus' text format.

    Attributes:
        series: each metric's label sets; a metric that is announced only has none.
    """

    def __init__(self, text: str) -> None:
        self.series: dict[str, list[dict[str, str]]] = {}
        for name, labels in _lines(text):
            self.series.setdefault(name, [])
            if labels is not None:
                self.series[name].append(labels)

    def labels(self, metric: str) -> set[str]:
        return {label for labels in self.series[metric] for label in labels}


def _lines(text: str) -> Iterator[tuple[str, dict[str, str] | None]]:
    for line in text.splitlines():
        if announced := re.match(r"# TYPE (\w+)", line):
            yield announced[1], None
        elif sample := re.match(r"(\w+)(?:\{(.*)\})? \S+$", line):
            yield sample[1], dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
