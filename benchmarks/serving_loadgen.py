"""MLPerf's LoadGen in front of a server: the scenarios Offline and Server, by gRPC. See serving.py."""

import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_AT_ONCE = 32  # of Offline: fewer than wait at most
SHARES = (0.9, 0.75, 0.6, 0.45, 0.3)  # of the throughput: what a search would find is in the other loads
QUERIES = 800  # below some 700 LoadGen is not sure of a 99th percentile


class UnderTest:
    """What LoadGen calls: each sample is a request, and an answer, right or not, completes it."""

    def __init__(self, url: str, model: str, images: Sequence[bytes]):
        import numpy as np
        import tritonclient.grpc

        self.model, self.failures = model, 0
        self.client = tritonclient.grpc.InferenceServerClient(url)
        self.room = threading.Semaphore(MOST_AT_ONCE)
        self.inputs = []
        for image in images:
            tensor = tritonclient.grpc.InferInput('image', [1, 1], 'BYTES')
            tensor.set_data_from_numpy(np.array([[image]], dtype=object))
            self.inputs.append([tensor])

    def issue(self, samples: Any) -> None:
        for sample in samples:
            self.room.acquire()
            self.client.async_infer(
                self.model, self.inputs[sample.index], lambda result, error, id=sample.id: self._done(id, error)
            )

    def _done(self, number: int, error: Any) -> None:
        import mlperf_loadgen

        self.failures += error is not None
        self.room.release()
        mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(number, 0, 0)])


def offline(url: str, model: str, images: Sequence[bytes], seconds: float, capacity: float) -> dict[str, Any]:
    """All samples at once: how many a second."""

    def settings(test: Any, kinds: Any) -> None:
        test.scenario = kinds.Offline
        test.offline_expected_qps = 1.2 * capacity  # so many samples that they last as long as is asked

    return _run('Offline', url, model, images, seconds, settings)


def server_search(
    url: str, model: str, images: Sequence[bytes], seconds: float, p99_ms: float, capacity: float
) -> list[dict[str, Any]]:
    """Random requests at falling rates, down from the capacity, until LoadGen calls one valid."""
    rows = []
    for share in SHARES:

        def settings(test: Any, kinds: Any, rate: float = share * capacity) -> None:
            test.scenario = kinds.Server
            test.server_target_qps = rate
            test.server_target_latency_ns = round(p99_ms * 1e6)
            test.server_target_latency_percentile = 0.99

        rate = share * capacity
        row = _run('Server', url, model, images, max(seconds, QUERIES / rate), settings)
        rows.append({'target_qps': round(rate, 2), **row})
        if rows[-1]['valid']:
            break
    return rows


def _run(scenario: str, url: str, model: str, images: Sequence[bytes], seconds: float, choose: Any) -> dict[str, Any]:
    import mlperf_loadgen as lg

    test, logs = lg.TestSettings(), lg.LogSettings()
    test.mode = lg.TestMode.PerformanceOnly
    choose(test, lg.TestScenario)
    test.min_duration_ms = round(seconds * 1e3)
    test.min_query_count = 1
    subject = UnderTest(url, model, images)
    with tempfile.TemporaryDirectory() as folder:
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        sut = lg.ConstructSUT(subject.issue, lambda: None)
        library = lg.ConstructQSL(len(images), len(images), lambda samples: None, lambda samples: None)
        lg.StartTestWithLogSettings(sut, library, test, logs)
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
        detail = (Path(folder) / 'mlperf_log_detail.txt').read_text()
    found = {}
    for line in detail.splitlines():
        if line.startswith(':::MLLOG '):
            entry = json.loads(line.removeprefix(':::MLLOG '))
            if entry['key'].startswith('result_'):
                found[entry['key'].removeprefix('result_')] = entry['value']
    key = 'completed_samples_per_sec' if scenario == 'Server' else 'samples_per_second'
    return {
        'model': model,
        'scenario': scenario,
        'valid': found['validity'] == 'VALID' and not subject.failures,
        'failures': subject.failures,
        'samples_per_second': round(float(found[key]), 2),
        'p99_ms': round(found['99.00_percentile_latency_ns'] / 1e6, 2),
        'queries': found.get('query_count'),
    }
