"""Bodies as objects behind an fsspec URL (s3://, gs://, file:// ...): for pools over several hosts whose payloads are too much
for Redis. fsspec is an optional extra; credentials are those that each machine's own environment gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.bodies import token_of_url
from broker.errors import StoreError


class UrlStore:
    """The objects under one URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.token = token_of_url(url)
        try:
            import fsspec
        except ImportError:
            raise StoreError(
                f"large bodies stand at {url}, and fsspec is not installed; pip install 'penstock[fsspec]'"
            ) from None
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"), skip_instance_cache=True)
        except Exception as error:  # noqa: BLE001 - of a plug-in: a protocol it has no module for, a wrong option
            raise self._refused(error) from None

    def write(self, bodies: Mapping[str, bytes]) -> None:
        try:
            self._files.makedirs(self._root, exist_ok=True)
            for name, body in bodies.items():
                self._files.pipe_file(self._path(name), body)
        except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
            raise self._refused(error) from None

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
            raise self._refused(error) from None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                pass
            except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
                raise self._refused(error) from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _refused(self, error: Exception) -> StoreError:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return StoreError(
            f"large bodies stand at {self._url}, which does not answer as it should ({text}); see that it does"
        )
