"""Ask served models for labels, over HTTP or gRPC: tritonclient, with every failure in one line.

The encoded image is one element of BYTES: in the body of the request, or, with shared memory, in a region that the
server on the same machine reads.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from .shared_memory import Region

__all__ = ['PORTS', 'Answer', 'Client', 'GoneError', 'LateError', 'one_line', 'read_image']

PORTS = {'http': 8000, 'grpc': 8001}
# Seconds; by default the server gives requests up after two.
GRACE = 3.0


class GoneError(UserError):
    """There is no server, or no longer, or none that takes images in this way: the others will fare no better."""


class LateError(UserError):
    """No answer in time."""


@dataclass(frozen=True)
class Answer:
    """Of one image, the best class first.

    Attributes:
        classes: Their numbers.
        labels: Their names.
        scores: Probabilities.
        ms: From sending the request to having the answer.
    """

    classes: list[int]
    labels: list[str]
    scores: list[float]
    ms: float


class Client:
    """A connection to a server; a context manager, whose end leaves nothing behind.

    Args:
        url: HOST:PORT.
        protocol: http or grpc.
        timeout: Seconds that an answer may take.
        shared_memory: Images go through shared memory.

    Raises:
        UserError: tritonclient is not installed, or the URL is none.
    """

    def __init__(self, url: str, protocol: str = 'http', timeout: float = 30.0, shared_memory: bool = False) -> None:
        self.url, self.timeout = url, timeout
        self._module = _module(protocol)
        # Until there was an answer.
        self._hint = f'; is it the port for --protocol {next(p for p in PORTS if p != protocol)}?'
        self._limit: dict[str, float] = {} if protocol == 'http' else {'client_timeout': timeout}
        with self._asking():
            self._client = self._connected()
        self._region = Region(self._share, self._unshare) if shared_memory else None

    def _connected(self) -> Any:
        options = {} if self._limit else {'connection_timeout': self.timeout, 'network_timeout': self.timeout}
        return self._module.InferenceServerClient(self.url, **options)

    def __enter__(self) -> 'Client':
        return self

    def __exit__(self, *_: object) -> None:
        if self._region is not None:
            self._region.close()
        with suppress(Exception):
            self._client.close()

    def models(self) -> list[str]:
        """Names of the ensembles of `hetconv deploy` that are ready.

        Raises:
            UserError: No server answers, or it is none of Triton.
        """
        with self._asking(f'{self.url}: '):
            index = self._client.get_model_repository_index(**self._limit)
            self._hint = ''
            models = getattr(index, 'models', index)  # of gRPC a message
            ready = {_of(model, 'name') for model in models if _of(model, 'state') == 'READY'}
            return sorted(name for name in ready if f'{name}_engine' in ready)

    def only_model(self) -> str:
        """The ensemble of `hetconv deploy`, where there is one.

        Raises:
            UserError: There are none or several.
        """
        try:
            names = self.models()
        except (GoneError, LateError):
            raise
        except UserError as error:
            raise UserError(f'--model is needed, as the server does not list what it has: {error}') from error
        if not names:
            raise UserError(f'{self.url} has no model of `hetconv deploy` that is ready')
        if len(names) > 1:
            raise UserError(f'{self.url} has {len(names)} models: --model names one of {", ".join(names)}')
        return names[0]

    def check(self, model: str) -> None:
        """Raises UserError where there is no such model, or it does not take encoded images and give labels."""
        try:
            with self._asking(f'{self.url}: '):
                facts = self._client.get_model_metadata(model, **self._limit)
                self._hint = ''
                inputs = {_of(port, 'name'): _of(port, 'datatype') for port in _of(facts, 'inputs')}
                outputs = {_of(port, 'name') for port in _of(facts, 'outputs')}
        except (GoneError, LateError):
            raise
        except UserError as error:
            names = self._others()
            raise error if model in names or not names else unknown('model', model, names) from error
        if inputs != {'image': 'BYTES'} or not {'class', 'label', 'score'} <= outputs:
            others = ', '.join(self._others())
            raise UserError(f'{model} takes no encoded images' + f'; there are {others}' * bool(others))

    def _others(self) -> list[str]:
        """For a message that says something else."""
        with suppress(UserError):
            return self.models()
        return []

    def classify(self, model: str, image: bytes) -> Answer:
        """Send one image.

        Args:
            model: Name of an ensemble.
            image: Encoded: JPEG, PNG, BMP, GIF or WebP.

        Raises:
            GoneError: The server is not there.
            LateError: It gives no answer in time.
            UserError: What it says of the image, or no shared memory.
        """
        import numpy as np

        given = self._module.InferInput('image', [1, 1], 'BYTES')
        if self._region is None:
            given.set_data_from_numpy(np.array([[image]], dtype=np.object_))
        else:
            given.set_shared_memory(*self._region.put(image))
        try:
            with self._asking():
                start = time.perf_counter()
                result = self._client.infer(model, [given], **self._limit)
                ms = (time.perf_counter() - start) * 1e3
                classes, labels, scores = (result.as_numpy(name)[0].tolist() for name in ('class', 'label', 'score'))
        except LateError:
            if self._region is not None:
                self._region.close()  # the server may read it yet
            raise
        return Answer(classes, [one_line(label) for label in labels], scores, ms)

    def _share(self, name: str, size: int) -> None:
        """Raises GoneError where the server does not open regions of shared memory, or cannot open this one."""
        try:
            with self._asking():
                self._client.register_system_shared_memory(name, name, size, **self._limit)
        except (GoneError, LateError):
            raise
        except UserError as error:
            hint = '`hetconv serve --shared-memory` allows it' if 'restricted' in str(error) else error
            raise GoneError(f'{self.url} shares no memory with clients: {hint}') from error

    def _unshare(self, name: str) -> None:
        """Where the server is at an image that nobody waits for any longer, once it has done with it.

        Over a connection of its own: the other may be in the middle of an answer.
        """
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            try:
                connection = self._connected()
                connection.unregister_system_shared_memory(name, **self._limit)
                connection.close()
            except Exception as error:
                if 'in use' not in str(error):
                    break  # there is no server
                time.sleep(0.02)
            else:
                break

    @contextmanager
    def _asking(self, about: str = '') -> Iterator[None]:
        """What tritonclient and those below it raise, in one line; what the server says after `about`."""
        from tritonclient.utils import InferenceServerException

        late = LateError(f'no answer from {self.url} in {self.timeout:g} s')
        try:
            yield
        except UserError:
            raise
        except InferenceServerException as error:
            status, text = str(error.status()), one_line(error.message() or '')
            if 'DEADLINE_EXCEEDED' in status:
                raise late from error
            # Of gRPC also a full queue.
            if 'UNAVAILABLE' in status and not self._alive():
                # Somebody is there who does not speak HTTP/2.
                hint = self._hint * ('Socket closed' in text or 'HTTP/2' in text)
                raise GoneError(f'no server at {self.url}: {text}{hint}') from error
            raise UserError(about + (text or f'status {status}')) from error
        except TimeoutError as error:
            raise late from error
        except (OSError, EOFError, RuntimeError) as error:
            raise GoneError(f'no server at {self.url}: {_reason(error)}') from error
        except Exception as error:  # of a parser, which is no part of tritonclient
            if type(error).__name__ == 'HTTPConnectionClosed':
                raise GoneError(f'no server at {self.url}: {_reason(error)}') from error
            raise GoneError(f'{self.url} does not answer as Triton does: {_reason(error)}{self._hint}') from error

    def _alive(self) -> bool:
        with suppress(Exception):
            return self._client.is_server_live(**self._limit)
        return False


def read_image(path: Path) -> bytes:
    """A file of an image, which is not looked at: that is for the server.

    Raises:
        UserError: It cannot be read, or is larger than a server takes.
    """
    from .steps.prepare import MAX_BYTES

    try:
        with path.open('rb') as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    if len(data) > MAX_BYTES:
        raise UserError(f'{path} has more than {MAX_BYTES:,} bytes, which a server does not take')
    return data


def one_line(text: str | bytes) -> str:
    """What a server says, for a terminal: no line breaks, no control characters."""
    if isinstance(text, bytes):
        text = text.decode(errors='replace')
    return ''.join(c if c.isprintable() else '?' for c in ' '.join(text.split()))


def _of(value: Any, key: str) -> Any:
    """Of a message of gRPC, or a dict of HTTP."""
    return value.get(key) if isinstance(value, dict) else getattr(value, key)


def _reason(error: BaseException) -> str:
    return one_line(getattr(error, 'strerror', None) or str(error)) or type(error).__name__


def _module(protocol: str) -> Any:
    """tritonclient.http or tritonclient.grpc."""
    import importlib

    if protocol not in PORTS:
        raise unknown('protocol', protocol, PORTS)
    try:
        if protocol == 'http':
            import gevent

            hub = gevent.get_hub()
            if KeyboardInterrupt not in hub.NOT_ERROR:  # Ctrl-C is no error to be printed; it is raised all the same
                hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
        return importlib.import_module(f'tritonclient.{protocol}')
    except (ImportError, RuntimeError) as error:  # RuntimeError: without the packages of this protocol
        raise UserError("tritonclient is not installed: pip install 'timm-hetconv[serve]'") from error
