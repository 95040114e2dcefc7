"""`hetconv client` and `hetconv page`: ask served models, in a terminal and in a browser."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .cli_common import require_parent
from .errors import UserError, unknown

if TYPE_CHECKING:
    from .serving.client import Answer, Client

__all__ = ['client', 'page']


def client(
    images: Annotated[list[Path], typer.Argument(help='Files of images.', show_default=False)],
    model: Annotated[
        Optional[str], typer.Option(help='Which model. Default: the only one there is.', show_default=False)
    ] = None,
    url: Annotated[
        Optional[str], typer.Option(help='Server. Default: 127.0.0.1:8000, of gRPC 8001.', show_default=False)
    ] = None,
    protocol: Annotated[str, typer.Option(help='http or grpc.')] = 'http',
    top_k: Annotated[int, typer.Option(min=1, help='Labels that are shown, of those of the answer.')] = 5,
    shared_memory: Annotated[
        bool, typer.Option('--shared-memory', help='Images go through shared memory: a server on this machine.')
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.001, max=86400, help='Seconds that an answer may take.')] = 30.0,
    json: Annotated[
        Optional[Path],
        typer.Option(help='Write the answers here; - is standard output, and nothing else is shown.'),
    ] = None,
) -> None:
    """Send images to a served model, each in a request of its own, and show their labels."""
    from .serving.address import address
    from .serving.client import PORTS, Client

    if protocol not in PORTS:
        raise unknown('protocol', protocol, PORTS)
    quiet = json == Path('-')
    if json is not None and not quiet:
        require_parent(json, '.json')
    url = address(url or f'127.0.0.1:{PORTS[protocol]}', PORTS[protocol])
    rows: list[dict[str, Any]] = []
    with Client(url, protocol, timeout, shared_memory) as server:
        model = model or server.only_model()
        server.check(model)
        failed = _ask(server, model, images, None if quiet else top_k, rows)
    if json is not None:
        _write(rows, None if quiet else json)
    if failed:
        raise typer.Exit(2)


def page(
    server: Annotated[str, typer.Option(help='Triton Inference Server, its HTTP.')] = '127.0.0.1:8000',
    port: Annotated[int, typer.Option(min=0, max=65535, help='Port of the page; 0 takes a free one.')] = 8080,
    host: Annotated[str, typer.Option(help='Address to listen at.')] = '127.0.0.1',
) -> None:
    """Serve a page that shows labels of an image and compares models, until Ctrl-C."""
    from .serving.address import address, answers
    from .serving.page import PageServer

    with PageServer(address(server, 8000), host, port) as pages:
        nobody = '' if answers(pages.triton, '/v2/health/live') else ', where there is no server yet'
        print(f'{pages.url} asks {pages.triton}{nobody}', flush=True)
        pages.serve_forever()


def _ask(server: 'Client', model: str, images: list[Path], top_k: int | None, rows: list[dict[str, Any]]) -> bool:
    """One after the other; a row for each image that was sent, an error for each that was not answered.

    Args:
        top_k: Labels shown; None shows none.

    Returns:
        Did one fail?
    """
    from .serving.client import GoneError, one_line, read_image

    failed = False
    for number, path in enumerate(images):
        try:
            answer = server.classify(model, read_image(path))
        except UserError as error:
            failed = True
            # The name may be in the message already.
            text = str(error) if str(error).startswith(str(path)) else f'{path}: {error}'
            rows.append({'image': one_line(str(path)), 'model': model, 'error': one_line(text)})
            left = len(images) - number - 1
            gone = isinstance(error, GoneError) and left
            print(f'hetconv: {one_line(text)}' + f'; {left} not sent' * bool(gone), file=sys.stderr)
            if gone:
                break
        else:
            rows.append({'image': one_line(str(path)), 'model': model, **_row(answer)})
            if top_k is not None:
                print(f'{one_line(str(path))}  {answer.ms:.1f} ms')
                for label, score in list(zip(answer.labels, answer.scores))[:top_k]:
                    print(f'  {score:6.1%}  {label}')
    return failed


def _row(answer: 'Answer') -> dict[str, Any]:
    """For JSON, which knows no NaN."""
    labels = [
        {'class': number, 'label': label, 'score': score if math.isfinite(score) else None}
        for number, label, score in zip(answer.classes, answer.labels, answer.scores)
    ]
    return {'ms': round(answer.ms, 3), 'labels': labels}


def _write(rows: list[dict[str, Any]], path: Path | None) -> None:
    from .files import write_atomically

    text = json.dumps(rows, indent=1, ensure_ascii=False)
    if path is None:
        print(text)
    else:
        write_atomically(path, text.encode() + b'\n')
