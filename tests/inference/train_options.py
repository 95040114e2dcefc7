"""The options of timm's train.py: recipes are held against a list of them where there is no clone of timm.

`python tests/inference/train_options.py CLONE` prints the list, which is in train_options.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

# Not as a script, whose output may be on its way to that file.
OPTIONS = json.loads(Path(__file__).with_suffix('.json').read_text())['options'] if __name__ != '__main__' else {}


def describe(action):
    """Type, number of values and choices of an option of argparse."""
    kind = {'_StoreTrueAction': 'bool', 'ParseKwargs': 'dict'}.get(type(action).__name__)
    if kind is None:
        assert type(action).__name__ == '_StoreAction', f'{action.dest} is of a kind that is not known here'
        kind = (action.type or str).__name__
    facts = {'type': kind}
    if kind not in ('bool', 'dict') and action.nargs is not None:
        facts['nargs'] = action.nargs
    if action.choices is not None:
        facts['choices'] = list(action.choices)
    return facts


def mistakes(settings, options=OPTIONS):
    """What is wrong with the settings of a recipe: train.py itself takes any name and any type from a file."""
    for name, value in settings.items():
        if name not in options:
            yield f'train.py has no option {name}'
        elif not _fits(value, **options[name]):
            yield f'{name}: {value!r} is no {json.dumps(options[name])}'


def _fits(value, type, nargs=None, choices=None):
    if nargs in ('+', '*') or isinstance(nargs, int):
        if not isinstance(value, list) or len(value) != (nargs if isinstance(nargs, int) else len(value)):
            return False
        return all(_fits(one, type, None, choices) for one in value)
    if choices is not None and value not in choices:
        return False
    if type in ('int', 'float'):  # a bool is an int to Python
        return not isinstance(value, bool) and isinstance(value, int if type == 'int' else (int, float))
    return isinstance(value, {'bool': bool, 'str': str, 'dict': dict}[type])


def main(clone):
    """Print the list of a clone."""
    sys.path.insert(0, clone)
    import timm
    import train

    commit = subprocess.run(['git', '-C', clone, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    actions = [action for action in train.parser._actions if not isinstance(action, argparse._HelpAction)]
    print(f'{{"timm": {json.dumps(timm.__version__)}, "commit": {json.dumps(commit)}, "options": {{')
    lines = (f'  {json.dumps(action.dest)}: {json.dumps(describe(action))}' for action in actions)
    print(',\n'.join(lines), '}}', sep='\n')


if __name__ == '__main__':
    main(sys.argv[1])
