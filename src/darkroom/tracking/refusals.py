"""Explain the errors of an MLflow store in one line that ends with a remedy."""

import re

from darkroom.errors import RegistryError
from darkroom.project.text import first_line, reason, redact

CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
NO_MLFLOW = r"error code 404|body: '\s*(<|$)|not in a valid JSON|redirects"
LIBRARIES = {"mlflow", "sqlalchemy", "boto3", "botocore", "google", "azure"}  # packages that raise errors of a store
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# Extras by the package that MLflow imports.
EXTRAS = {"psycopg": "postgres", "boto3": "s3", "botocore": "s3", "google": "gs", "azure": "azure"}

# Patterns of the first line of an error, with meaning and remedy. {variable} is the variable that names the store.
MEANINGS = {
    r"UNAUTHENTICATED|error code 401": f"asks for credentials (HTTP 401); set or correct {CREDENTIALS}",
    r"PERMISSION_DENIED|error code 403": f"denies access (HTTP 403); ask for the permission, or correct {CREDENTIALS}",
    r"error code 407": "is behind a proxy that asks for credentials (HTTP 407); correct HTTPS_PROXY, or put the host "
    "into NO_PROXY",
    r"CERTIFICATE_VERIFY_FAILED": "has a TLS certificate that is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH to "
    "the file of its certificate authority",
    r"WRONG_VERSION_NUMBER": "does not speak TLS on this port; write http:// in {variable}, or correct the port",
    r"ConnectionReset|RemoteDisconnected": "closes the connection; correct {variable} (the port, or https:// where the "
    "server speaks TLS)",
    NO_MLFLOW: "is not an MLflow server: wrong port or path, or a proxy or login page in front of it; correct "
    "{variable}",
    r"(?P<status>429|5\d\d) error responses": "answers with HTTP {status}; look into the log of the server, or of the "
    "proxy in front of it",
    r"NameResolution|Name or service not known": "has a host name that cannot be resolved; correct {variable}",
    r"unsupported URI|Invalid url|parse SQLAlchemy URL": "is not a URI that MLflow knows; set {variable} to a server "
    "(http://...) or a database (postgresql://..., sqlite:///...)",
    r"out-of-date database schema|locate revision": "has tables of another MLflow version; run the version that wrote "
    "them last, or, if the tables are older, back up the database and run `mlflow db upgrade`",
    r"readonly database": "is read-only; give this user write access to the database file and its directory",
    r"database is locked": "is locked by another process that writes to it; wait for that, or end it, and try again",
    r"Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch|\(AccessDenied\)": "keeps its artifacts in "
    f"S3, which denies access; set or correct {KEYS}",
    r"Could not connect to the endpoint|NoSuchBucket": "keeps its artifacts in S3, where the bucket is not found; "
    "correct MLFLOW_S3_ENDPOINT_URL and AWS_DEFAULT_REGION, or create the bucket",
    r"disk is full|No space left|disk I/O error": "cannot be written, the disk is full or failing; free some space",
}


def is_refusal(error: Exception) -> bool:
    """Return whether the error is that of a store, its database or the network, without importing their packages."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | ImportError) or bool(libraries & LIBRARIES)


def refusal(uri: str, error: BaseException, *, variable: str, remedy: str = "") -> RegistryError:
    """Return the error of a store that refused, in one line.

    Args:
        error: what MLflow, a database driver or the network raised.
        variable: the environment variable that names this store.
        remedy: for errors that match no pattern.
    """
    if isinstance(error, ImportError):
        return RegistryError(f"the MLflow store {redact(uri)} needs {_package(error)}")
    text = f"{getattr(error, 'error_code', '')} {first_line(error)}"
    for pattern, meaning in MEANINGS.items():
        if found := re.search(pattern, text):
            told = meaning.format(variable=variable, **found.groupdict())
            return RegistryError(f"the MLflow store {redact(uri)} {told}")
    if not remedy:
        return RegistryError(f"MLflow store {redact(uri)}: {reason(error)}")
    return RegistryError(f"the MLflow store {redact(uri)} does not answer ({reason(error)}); {remedy}")


def _package(error: ImportError) -> str:
    """Return what to install for a database or a store of artifacts."""
    name = (error.name or "").partition(".")[0]
    if name in EXTRAS:
        return f"the package {name}: .venv/bin/uv pip install -e '.[{EXTRAS[name]}]'"
    return f"a package that is not installed ({reason(error)}); install it into .venv"
