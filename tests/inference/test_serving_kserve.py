"""Resources of docs/serving against the schemas of KServe and KEDA.

Where these come from is said at each test; CRDS names a folder of CustomResourceDefinitions, docs/serving/README.md.
"""

import os
import re
import sys
import types
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from serving_examples import (
    missing,
    resource,
)

SERVICES = ['kserve.yaml', 'kserve-gpu.yaml']


@pytest.mark.parametrize('name', SERVICES)
def test_services_are_of_kserves_classes(monkeypatch, name):
    """Those of PyPI's kserve and kubernetes: no unknown field, no value of another type."""
    if not (find_spec('kserve') and find_spec('kubernetes')):
        pytest.skip('kserve is not installed')
    # Without all that its package imports first, a web server among it: pip install --no-deps will do.
    package = types.ModuleType('kserve')
    package.__path__ = list(find_spec('kserve').submodule_search_locations)
    monkeypatch.setitem(sys.modules, 'kserve', package)
    modules = import_module('kserve.models'), import_module('kubernetes.client.models')

    def problems(value, kind, path):
        inner = re.fullmatch(r'(?i)(list|dict)[\[(](?:str, )?(.*)[\])]', kind)
        if inner:
            assert isinstance(value, {'list': list, 'dict': dict}[inner[1].lower()]), path
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return [p for key, v in items for p in problems(v, inner[2], f'{path}.{key}')]
        simple = {'str': str, 'int': int, 'bool': bool, 'ResourceQuantity': str, 'object': object}
        if kind in simple:
            return [] if isinstance(value, simple[kind]) else [f'{path}: {value!r} is no {kind}']
        found = next(getattr(module, kind) for module in modules if hasattr(module, kind))
        kinds = {key: found.openapi_types[attribute] for attribute, key in found.attribute_map.items()}
        unknown = [f'{path}.{key}: unknown' for key in value if key not in kinds]
        return unknown + [p for k, v in value.items() if k in kinds for p in problems(v, kinds[k], f'{path}.{k}')]

    assert problems(resource(name), 'V1beta1InferenceService', name) == []


def test_scaling_is_of_kedas_classes():
    """Those of PyPI's cloudcoil-models-keda, made from KEDA's schema: nothing is lost on the way through them."""
    keda = pytest.importorskip('cloudcoil.models.keda.v1alpha1')
    scaled = resource('autoscale.yaml')
    there = keda.ScaledObject.model_validate(scaled).model_dump(mode='json', by_alias=True, exclude_none=True)
    # Releases before 2.17 do not know this one.
    assert missing(scaled, there) in ([], ['.spec.fallback.behavior'])


@pytest.mark.parametrize('name', [*SERVICES, 'autoscale.yaml'])
def test_resources_keep_to_the_definitions(name):
    """Those that a cluster has, which know more than classes do: what is needed, which values there are."""
    folder = os.environ.get('CRDS')
    if not folder:
        pytest.skip('CRDS names no folder of CustomResourceDefinitions')
    jsonschema = pytest.importorskip('jsonschema')
    found, schemas = resource(name), {}
    for path in Path(folder).glob('*.yaml'):
        for definition in yaml.load_all(path.read_text(), getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
            for version in definition['spec']['versions']:
                key = f'{definition["spec"]["group"]}/{version["name"]}', definition['spec']['names']['kind']
                schemas[key] = version['schema']['openAPIV3Schema']
    schema = _strict(schemas[found['apiVersion'], found['kind']])
    schema['properties']['metadata'] = {}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(found)
    assert [f'{error.json_path}: {error.message}' for error in errors] == []


def _strict(schema):
    """As the API server has it with strict field validation."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get('x-kubernetes-int-or-string'):
        return {'type': ['integer', 'string']}
    made = {key: _strict(value) for key, value in schema.items()}
    known = isinstance(schema.get('properties'), dict) and schema.get('type') == 'object'
    if known and not schema.get('x-kubernetes-preserve-unknown-fields'):
        made.setdefault('additionalProperties', False)
    return made


def test_resources_speak_of_the_same_things():
    service, scaled = resource('kserve.yaml'), resource('autoscale.yaml')
    predictor, model = service['spec']['predictor'], service['spec']['predictor']['model']
    name, namespace = service['metadata']['name'], service['metadata']['namespace']
    assert scaled['spec']['scaleTargetRef']['name'] == f'{name}-predictor'
    assert scaled['metadata']['namespace'] == namespace
    assert scaled['spec']['maxReplicaCount'] == predictor['maxReplicas']
    assert scaled['spec']['minReplicaCount'] == predictor['minReplicas']
    (query,) = [t['metadata']['query'] for t in scaled['spec']['triggers'] if t['type'] == 'prometheus']
    assert f'namespace="{namespace}"' in query
    assert f'model="{name}"' in query
    assert f'model=~"{name}_(prepare|engine|labels)"' in query
    assert model['readinessProbe']['httpGet']['path'] == f'/v2/models/{name}/ready'
    for other in SERVICES:
        spec = resource(other)['spec']['predictor']
        assert {mount['name'] for mount in spec['model']['volumeMounts']} == {v['name'] for v in spec['volumes']}
        assert spec['model']['resources']['requests'] == spec['model']['resources']['limits']
        seconds = next(int(a.split('=')[1]) for a in spec['model']['args'] if a.startswith('--exit-timeout-secs'))
        assert seconds < spec['terminationGracePeriodSeconds']
        assert spec['model']['args'] == model['args']
