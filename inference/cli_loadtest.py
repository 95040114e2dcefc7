"""`hetconv loadtest`: what a server holds, of one model or of several in turns."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .errors import UserError

__all__ = ['loadtest']


def loadtest(
    models: Annotated[
        list[str],
        typer.Argument(
            help='Names of deployed models; the first is what the others are compared with.', show_default=False
        ),
    ],
    images: Annotated[Path, typer.Option(help='An image, or a folder of them.', show_default=False)],
    url: Annotated[str, typer.Option(help='Address and port of gRPC.')] = '127.0.0.1:8001',
    rate: Annotated[
        Optional[float],
        typer.Option(help='Open loop: requests a second, at random times.', min=0.01, show_default=False),
    ] = None,
    clients: Annotated[
        Optional[int], typer.Option(help='Closed loop: so many, one request each at a time.', min=1, show_default=False)
    ] = None,
    p99_ms: Annotated[
        Optional[float],
        typer.Option(help='Look for the largest rate whose p99 is within it.', min=0.01, show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help='Of each load.')] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help='Loads a model, in turns; of a search, rates: at least 5.')] = 3,
    timeout: Annotated[float, typer.Option(min=0.01, help='Seconds after which a request has failed.')] = 30.0,
    output: Annotated[
        Optional[Path], typer.Option('--json', help='File for all loads with their histograms.', show_default=False)
    ] = None,
) -> None:
    """Send images to a server: at random times (--rate), by clients that wait (--clients), or to a bound (--p99-ms)."""
    import asyncio

    from .cli_common import require_parent
    from .files import write_atomically
    from .serving.address import address
    from .serving.loadtest import Plan, run
    from .serving.sender import read_images
    from .show import bar
    from .show_load import show_loads

    if sum(option is not None for option in (rate, clients, p99_ms)) != 1:
        raise UserError('give one of --rate, --clients and --p99-ms')
    for option, value in (('--rate', rate), ('--p99-ms', p99_ms), ('--seconds', seconds), ('--timeout', timeout)):
        if value is not None and not math.isfinite(value):
            raise UserError(f'{option} must be a number')
    if output is not None:
        require_parent(output, '.json')
    data = read_images(images)
    plan = Plan(tuple(dict.fromkeys(models)), rate, clients, p99_ms, seconds, rounds, timeout)
    rows: list[dict[str, Any]] = []
    interrupted = False
    try:
        with bar() as report:
            asyncio.run(run(plan, address(url, 8001), data, rows.append, report))
    except KeyboardInterrupt:
        interrupted = True
    if output is not None and rows:
        write_atomically(
            output, json.dumps({'url': url, 'images': len(data), 'loads': rows}, indent=1).encode() + b'\n'
        )
    show_loads(rows, plan)
    if interrupted:
        print('interrupted: what was measured until then is kept', file=sys.stderr)
        sys.exit(130)
    if not any(row['answered'] for row in rows):
        raise UserError('no request was answered')
