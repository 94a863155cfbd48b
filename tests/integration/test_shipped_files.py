"""The files for operators: taken by the programs that they are for, and right in what they ask."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from ports import free_ports

from rqproc.cli.docs import FILES, page
from rqproc.cli.node import start
from rqproc.settings import NodeSettings

NAMES = FILES["operations"]
FOLDER = Path(sys.modules["rqproc"].__file__ or "").parent / "docs" / "operations"
NAME_IN_QUERY = re.compile(r"\b(?:rqproc|rq|process)_\w+")


def text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def dashboard() -> Any:
    return json.loads(text("grafana.json"))


def queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def alerts() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    (group,) = yaml.safe_load(text("alerts.yaml"))["groups"]
    return list(group["rules"])


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    return found


def check_rules(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool(), "check", "rules", str(path)], capture_output=True, text=True, check=False
    )


# --- how they are shown ---


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_printed_as_it_is(line: kit.Line, name: str) -> None:
    assert line("docs", "operations", "--file", name) == (0, text(name), "")


@pytest.mark.parametrize("args", [("operations", "--file", "x"), ("--file", "alerts.yaml")])
def test_what_there_is_none_of_is_told_with_what_there_is(
    line: kit.Line, args: tuple[str, ...]
) -> None:
    code, out, err = line("docs", *args)
    assert (code, out) == (2, "")
    assert all(name in err for name in NAMES)


def test_every_file_is_in_the_list_and_on_the_page() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(NAMES)
    assert re.findall(r"^\| `([\w.]+\.(?:service|yaml|json))` \|", page("operations"), re.M) == [
        *NAMES
    ]


# --- Prometheus and Grafana ---


def test_dashboard_and_alerts_ask_for_metrics_that_a_node_serves(
    cluster: Cluster, ids: Fresh
) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    (port,) = free_ports(1)
    cluster.start("a", options=("--metrics-port", str(port)))
    cluster.client.request(ids(1)[0], "price")
    cluster.client.request_many(ids(1), "explode", return_exceptions=True)

    def told() -> str | None:
        found = kit.get(port, "/metrics")[1]
        return found if 'rqproc_runs_total{resource="explode"}' in found else None

    families = parser.text_string_to_metric_families(kit.eventually(told, every_s=0.05))
    served = {sample.name for family in families for sample in family.samples}
    for query in (*queries(), *(alert["expr"] for alert in alerts())):
        asked = set(NAME_IN_QUERY.findall(query))
        assert asked, query
        assert asked <= served, query


def test_alerts_are_named_and_say_what_is_and_what_to_do() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names) >= 8
    for alert in alerts():
        assert alert["alert"].startswith("Rqproc")
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"].keys() == {"summary", "description"}


def test_promtool_takes_the_alerts() -> None:
    checked = check_rules(FOLDER / "alerts.yaml")
    assert checked.returncode == 0, checked.stderr


def test_promtool_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    plain = [query.replace("$__rate_interval", "5m") for query in queries()]
    rules = [{"record": f"panel:{place}", "expr": expr} for place, expr in enumerate(plain)]
    path = tmp_path / "queries.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = check_rules(path)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


ALERTED = {
    "RqprocNoNodeReady": [("rqproc_ready{job='rqproc',instance='a'}", "0x60")],
    "RqprocNodeNotReady": [("rqproc_ready{job='rqproc',instance='a'}", "0x60")],
    "RqprocHeartbeatsMissed": [
        ("rqproc_heartbeats_total{instance='a'}", "0x60"),
        ("rqproc_heartbeats_missed_total{instance='a'}", "0+60x60"),
    ],
    "RqprocHandlerStuck": [("rqproc_stuck{instance='a'}", "2x60")],
    "RqprocErrors": [("rqproc_errors_total{resource='price',type='KeyError'}", "0+10x60")],
    "RqprocLanesFull": [
        ("rqproc_lanes_busy{instance='a'}", "32x60"),
        ("rqproc_lanes{instance='a'}", "32x60"),
    ],
    "RqprocQueueing": [
        ("rqproc_queue_duration_seconds_bucket{resource='price',le='1.0'}", "0x60"),
        ("rqproc_queue_duration_seconds_bucket{resource='price',le='2.5'}", "0+9x60"),
        ("rqproc_queue_duration_seconds_bucket{resource='price',le='+Inf'}", "0+9x60"),
    ],
    "RqprocMembersChangeOften": [("rqproc_member_changes_total{instance='a'}", "0+5x60")],
    "RqprocEvictions": [("rqproc_evictions_total{instance='a'}", "0+600x60")],
}
NOT_READY = {"RqprocNoNodeReady", "RqprocNodeNotReady"}
"""Where there is but one node, both fire."""

QUIET = [
    ("rqproc_ready{job='rqproc',instance='a'}", "1x60"),
    ("rqproc_heartbeats_total{instance='a'}", "0+60x60"),
    ("rqproc_heartbeats_missed_total{instance='a'}", "0x60"),
    ("rqproc_stuck{instance='a'}", "0x60"),
    ("rqproc_errors_total{resource='price',type='KeyError'}", "0+1x60"),
    ("rqproc_answers_total{resource='price',source='hit'}", "0+99x60"),
    ("rqproc_lanes_busy{instance='a'}", "3x60"),
    ("rqproc_lanes{instance='a'}", "32x60"),
    ("rqproc_queue_duration_seconds_bucket{resource='price',le='1.0'}", "0+9x60"),
    ("rqproc_queue_duration_seconds_bucket{resource='price',le='+Inf'}", "0+9x60"),
    ("rqproc_member_changes_total{instance='a'}", "3x60"),
    ("rqproc_evictions_total{instance='a'}", "0x60"),
]


def firing(folder: Path, series: list[tuple[str, str]]) -> set[str]:
    """Return which alerts fire after 45 minutes of a sample a minute, by promtool's own evaluation:
    of each it is told that none does, and says where that is wrong.
    """
    test = {
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "alert_rule_test": [
                    {"eval_time": "45m", "alertname": alert["alert"], "exp_alerts": []}
                    for alert in alerts()
                ],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(json.dumps(test))
    told = subprocess.run(
        [promtool(), "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    found = set(re.findall(r"alertname: (\w+)", told.stdout + told.stderr))
    assert bool(found) == bool(told.returncode), told.stderr
    return found


@pytest.mark.parametrize("name", ALERTED)
def test_an_alert_fires_where_it_should(tmp_path: Path, name: str) -> None:
    replaced = {series.partition("{")[0] for series, _ in ALERTED[name]}
    quiet = [one for one in QUIET if one[0].partition("{")[0] not in replaced]
    found = firing(tmp_path, [*quiet, *ALERTED[name]])
    assert found == (NOT_READY if name in NOT_READY else {name})


def test_where_all_is_well_no_alert_fires(tmp_path: Path) -> None:
    assert {alert["alert"] for alert in alerts()} == set(ALERTED)
    assert firing(tmp_path, QUIET) == set()


def test_a_dashboard_is_built_as_grafana_wants_it() -> None:
    board = dashboard()
    assert board["title"] == "rqproc"
    assert board["schemaVersion"] >= 36
    variables = {variable["name"] for variable in board["templating"]["list"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another"
        cells |= taken
        assert panel["type"] in {"row", "stat", "timeseries", "heatmap"}
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"]
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]
            assert panel["fieldConfig"]["defaults"]["unit"]


# --- systemd and Kubernetes ---


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "rqproc.service"  # it looks whether the program is there
    unit.write_text(text("rqproc.service").replace("/srv/prices/.venv/bin/rqproc", sys.executable))
    checked = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_kubernetes_schemas_take_each_object() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    objects = list(yaml.safe_load_all(text("kubernetes.yaml")))
    assert [one["kind"] for one in objects] == ["Service", "StatefulSet", "PodDisruptionBudget"]
    for one in objects:
        validate.validate(one, "1.31", strict=True)


def test_a_pod_has_probes_a_drain_and_more_time_than_a_drain_takes() -> None:
    yaml = pytest.importorskip("yaml")
    _, nodes, budget = yaml.safe_load_all(text("kubernetes.yaml"))
    pod = nodes["spec"]["template"]["spec"]
    (node,) = pod["containers"]
    assert node["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert node["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "rqproc node drain" in node["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert pod["terminationGracePeriodSeconds"] > NodeSettings().drain_s
    assert budget["spec"]["maxUnavailable"] == 1
    labels = nodes["spec"]["template"]["metadata"]["labels"]
    for selector in (nodes["spec"]["selector"], budget["spec"]["selector"]):
        assert selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", ["rqproc.service", "kubernetes.yaml"])
def test_the_commands_in_files_are_commands(name: str) -> None:
    for words in started(name):
        assert words[:3] == ["rqproc", "node", "start"]
        options = {word for word in words if word.startswith("--")}
        assert options <= {option for param in start.params for option in param.opts}


def started(name: str) -> Iterator[list[str]]:
    """The commands by which a file has nodes started."""
    if name == "rqproc.service":
        for found in re.findall(r"^ExecStart=\S*/(rqproc .*)$", text(name), re.M):
            yield found.split()
    else:
        yaml = pytest.importorskip("yaml")
        _, nodes, _ = yaml.safe_load_all(text(name))
        yield nodes["spec"]["template"]["spec"]["containers"][0]["command"]
