"""Bodies as objects behind an fsspec URL (s3://, gs://, file:// ...): for pools over several hosts whose payloads are too much
for Redis. fsspec is an optional extra; credentials are those that each machine's own environment gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.bodies import Body, check_name, token_of_url
from broker.errors import StoreError


class UrlStore:
    """The objects under one URL."""

    def __init__(self, url: str) -> None:
        self.location = self._url = url
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
        except ImportError as error:
            raise self._refused(error, _install(error)) from None
        except ValueError as error:  # a protocol that nobody knows, an option that cannot be
            raise self._refused(error, "correct queue.bodies in pool.toml") from None
        except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
            raise self._refused(error) from None

    def write(self, bodies: Mapping[str, Body]) -> None:
        paths = {self._path(name): body for name, body in bodies.items()}
        try:
            self._files.makedirs(self._root, exist_ok=True)
            for path, body in paths.items():
                self._files.pipe_file(path, bytes(body))
        except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
            raise self._refused(error) from None

    def read(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            return bytes(self._files.cat_file(path))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
            raise self._refused(error) from None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._path(name)
            try:
                self._files.rm_file(path)
            except FileNotFoundError:
                pass
            except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
                raise self._refused(error) from None

    def recycle(self, names: Iterable[str]) -> None:
        """Keeps nothing."""
        self.remove(names)

    def tidy(self) -> None: ...

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def _refused(self, error: Exception, mend: str = "") -> StoreError:
        """`mend` where it is no fault of the store's, which was not asked."""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        how = "cannot be used from here" if mend else "does not answer as it should"
        return StoreError(f"large bodies stand at {self._url}, which {how} ({text}); {mend or 'see that it does'}")


def _install(error: ImportError) -> str:
    """The package is called as its module where fsspec's own words say so; smbclient, for one, is not."""
    module = (getattr(error.__cause__, "name", None) or "").partition(".")[0]
    named = f"pip install {module}" if module and module in str(error) else "install what it names with pip"
    return f"{named}, for slots and producers alike"
