"""Prometheus's and Grafana's files of docs/serving: promtool reads them, and a schema."""

import json
import shutil
import subprocess

import pytest
import yaml
from serving_examples import (
    ALERTS,
    DASHBOARD,
    EXAMPLES,
    PROMTOOL,
    expressions,
    missing,
    replaced,
)

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason='promtool, of the package prometheus, is not installed')


def promtool(*arguments):
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_prometheus_takes_its_files(tmp_path):
    promtool('check', 'config', EXAMPLES / 'prometheus.yml')
    # Debian's knows no Kubernetes: the rest of that file is checked.
    text = replaced(
        (EXAMPLES / 'prometheus-kubernetes.yml').read_text(),
        [('kubernetes_sd_configs:\n      - role: pod', "static_configs:\n      - targets: ['a:1']")],
    )
    shutil.copy(EXAMPLES / 'alerts.yml', tmp_path)
    (tmp_path / 'prometheus.yml').write_text(text)
    promtool('check', 'config', tmp_path / 'prometheus.yml')


@needs_promtool
def test_every_expression_is_promql(tmp_path):
    rules = [{'record': f'a:b{i}', 'expr': text} for i, (_, text) in enumerate(expressions())]
    assert len(rules) > 15
    (tmp_path / 'rules.yml').write_text(yaml.safe_dump({'groups': [{'name': 'all', 'rules': rules}]}))
    promtool('check', 'rules', tmp_path / 'rules.yml')


LABELS = 'instance="a:8002", job="triton", version="1"'
ENGINE = f'{LABELS}, model="net_engine"'
ALERT_CASES = {
    'TritonDown': {'up{instance="a:8002", job="triton"}': '0x20'},
    'TritonWaitsTooLong': {f'nv_inference_request_failure{{{ENGINE}, reason="REJECTED"}}': '0+1x20'},
    'TritonRequestsFail': {f'nv_inference_request_failure{{{LABELS}, model="net", reason="OTHER"}}': '0+20x20'},
    'TritonStepFails': {f'nv_inference_request_failure{{{ENGINE}, reason="BACKEND"}}': '0+1x20'},
    'TritonQueueIsLong': {
        f'nv_inference_queue_duration_us{{{ENGINE}}}': '0+2000000x20',
        f'nv_inference_request_success{{{ENGINE}}}': '0+10x20',
    },
    'TritonStandsStill': {
        f'nv_inference_pending_request_count{{{ENGINE}}}': '3x20',
        f'nv_inference_exec_count{{{ENGINE}}}': '7x20',
    },
    'TritonMemoryIsShort': {
        'nv_cpu_memory_used_bytes{instance="a:8002", job="triton"}': '95x20',
        'nv_cpu_memory_total_bytes{instance="a:8002", job="triton"}': '100x20',
    },
}
QUIET = {
    'up{instance="a:8002", job="triton"}': '1x20',
    f'nv_inference_request_failure{{{ENGINE}, reason="REJECTED"}}': '5x20',
    f'nv_inference_request_failure{{{LABELS}, model="net", reason="OTHER"}}': '0+2x20',
    f'nv_inference_request_success{{{LABELS}, model="net"}}': '0+100x20',
    f'nv_inference_queue_duration_us{{{ENGINE}}}': '0+100000x20',
    f'nv_inference_request_success{{{ENGINE}}}': '0+10x20',
    f'nv_inference_pending_request_count{{{ENGINE}}}': '3x20',
    f'nv_inference_exec_count{{{ENGINE}}}': '0+7x20',
    'nv_cpu_memory_used_bytes{instance="a:8002", job="triton"}': '80x20',
    'nv_cpu_memory_total_bytes{instance="a:8002", job="triton"}': '100x20',
}


@needs_promtool
def test_alerts_fire_when_they_should_and_else_not(tmp_path):
    """Counters of one server for 20 minutes, each as it is when all but one thing is well."""
    assert set(ALERT_CASES) == {rule['alert'] for rule in ALERTS}
    cases = []
    for wanted, changed in {**ALERT_CASES, None: {}}.items():
        series = [{'series': key, 'values': values} for key, values in {**QUIET, **changed}.items()]
        # How many fire, of each: its labels and text are not the matter here.
        checks = [
            {'expr': f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)', 'eval_time': '18m',
             'exp_samples': [{'labels': '{}', 'value': int(name == wanted)}]}
            for name in ALERT_CASES
        ]  # fmt: skip
        cases.append({'interval': '1m', 'input_series': series, 'promql_expr_test': checks})
    shutil.copy(EXAMPLES / 'alerts.yml', tmp_path)
    text = yaml.safe_dump({'rule_files': ['alerts.yml'], 'evaluation_interval': '1m', 'tests': cases})
    (tmp_path / 'tests.yml').write_text(text)
    promtool('test', 'rules', tmp_path / 'tests.yml')


def test_dashboard_is_for_any_prometheus_and_fits_together():
    panels, variables = DASHBOARD['panels'], {v['name']: v for v in DASHBOARD['templating']['list']}
    assert set(variables) == {'datasource', 'instance', 'model'}
    sources = [panel['datasource'] for panel in panels] + [t['datasource'] for p in panels for t in p['targets']]
    sources += [variables[name]['datasource'] for name in ('instance', 'model')]
    assert all(source == {'type': 'prometheus', 'uid': '${datasource}'} for source in sources)
    assert len({panel['id'] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel['gridPos'] for panel in panels)
        for x in range(grid['x'], grid['x'] + grid['w'])
        for y in range(grid['y'], grid['y'] + grid['h'])
    ]
    assert len(cells) == len(set(cells)), 'panels overlap'
    assert max(x for x, _ in cells) < 24
    assert all(panel['description'] for panel in panels)


def test_dashboard_is_grafanas():
    """PyPI's grafana-foundation-sdk is made from Grafana's schemas: nothing is lost on the way through its classes."""
    dashboard = pytest.importorskip('grafana_foundation_sdk.models.dashboard')
    from grafana_foundation_sdk.cog import encoder, plugins

    plugins.register_default_plugins()
    there = json.loads(encoder.JSONEncoder().encode(dashboard.Dashboard.from_json(DASHBOARD)))
    assert missing(DASHBOARD, there) == []
