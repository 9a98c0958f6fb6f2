"""The params file: models, loading, host paths, secret references."""

from runbook_lib.params.loading import load_params, params_schema, project_root, resolve_path
from runbook_lib.params.models import MIN_CARDS, WEIGHTS_GB, Card, Host, Params, Topology
from runbook_lib.params.paths import OWN_ROOT, ROOT_VARIABLE, HostPaths

__all__ = [
    "MIN_CARDS",
    "OWN_ROOT",
    "ROOT_VARIABLE",
    "WEIGHTS_GB",
    "Card",
    "Host",
    "HostPaths",
    "Params",
    "Topology",
    "load_params",
    "params_schema",
    "project_root",
    "resolve_path",
]
