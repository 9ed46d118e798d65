"""Whether a run may write to a folder in a bucket; nothing is written to see it."""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vit_jax import errors
from vit_jax.host import buckets

PACKAGES = "pip install 'vit_jax[gcs]'"
PATIENCE = 20.0  # seconds that a look at a bucket may take
# What a run does there, as Google names it.
NEEDED = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]


def check(address: str, name: str, *, profile: bool = False) -> None:
    """Raises `UserError` where a run could not write; writes nothing itself.

    Args:
        address: Of a folder, as a user gave it.
        name: Of the option, for the error.
        profile: Whether a trace is written there, too.
    """
    _check_scheme(address, f"{name}={address}")
    if profile:
        raise errors.UserError(
            f"--profile writes to folders of this machine alone, not to {address}; "
            "want another --workdir for it"
        )
    try:
        buckets.packages()
    except ImportError as error:
        raise errors.UserError(
            f"{name}={address} wants gcsfs, which is not there ({error}): "
            f"{PACKAGES}, or want a local or mounted folder"
        ) from error
    _check_bucket(address.split("/")[2])


@functools.lru_cache
def _check_bucket(name: str) -> None:
    storage = buckets.packages()
    from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
    from google.cloud.storage import retry  # pyright: ignore[reportMissingImports]

    options: dict[str, Any] = {
        "retry": retry.DEFAULT_RETRY.with_timeout(PATIENCE),
        "timeout": PATIENCE,
    }
    with _explained(name):
        try:
            bucket = storage.Client().get_bucket(name, **options)
        except exceptions.Forbidden as error:
            raise errors.UserError(
                f"gs://{name}: not open to this login ({errors.reason(error)}); want a "
                "role with storage.buckets.get, as Storage Legacy Bucket Reader has"
            ) from error
        allowed = bucket.test_iam_permissions(NEEDED, **options)
    if missing := sorted(set(NEEDED) - set(allowed)):
        raise errors.UserError(
            f"gs://{name}: this login lacks {', '.join(missing)}; want a role that has "
            "them, as Storage Object Admin does"
        )


@contextmanager
def _explained(bucket: str) -> Iterator[None]:
    """Turns what Google's client raises into one error."""
    from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
    from google.auth import exceptions as of_logins  # pyright: ignore[reportMissingImports]

    try:
        yield
    except errors.UserError:
        raise
    except exceptions.NotFound as error:
        raise errors.UserError(
            f"gs://{bucket}: there is no such bucket; make it: gcloud storage buckets "
            f"create gs://{bucket}"
        ) from error
    except of_logins.DefaultCredentialsError as error:
        raise errors.UserError(
            f"gs://{bucket}: nobody is logged in at Google here; gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    except Exception as error:  # of another's code: no network, no project, ...
        raise errors.UserError(
            f"gs://{bucket} cannot be used: {errors.reason(error)}"
        ) from error


def _check_scheme(address: str, shown: str) -> None:
    scheme = address.partition(":")[0].lower()
    if scheme != buckets.SCHEME:
        raise errors.UserError(
            f"{shown}: nothing is written to {scheme}:// addresses; want a local or "
            "mounted folder (s3fs, gcsfuse and the like mount buckets), or "
            "gs://BUCKET/PATH"
        )
    if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,221}/+[^/].*", address):
        raise errors.UserError(f"{shown} is no folder in a bucket: gs://BUCKET/PATH")
