"""`python -m calib.qat SCRIPT`: the script's own `create_model` gives networks that round."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys, timm, torch
from timm import create_model as first
from timm.models import create_model as second

found = []
for create_model in (first, second, timm.create_model):
    model = create_model('hetconv_resnet20_cifar_p4', num_classes=10)
    found.append(sorted({type(module).__name__ for module in model.modules() if 'onv2d' in type(module).__name__}))
print(json.dumps([__name__, sys.argv[1:], found]))
sys.exit(7)
"""


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, '-m', 'calib.qat', *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def test_a_script_has_networks_that_round(tmp_path):
    (tmp_path / 'train.py').write_text(SCRIPT)
    result = run('train.py', '--epochs', 1, cwd=tmp_path)
    assert result.returncode == 7, result.stderr
    name, arguments, found = json.loads(result.stdout)
    assert (name, arguments) == ('__main__', ['--epochs', '1'])
    assert found == [['_Conv2d', '_HetConv2d']] * 3


def test_mistakes_cost_one_line(tmp_path):
    result = run('nothing.py', cwd=tmp_path)
    assert result.returncode == 2
    assert "no such script: 'nothing.py'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
