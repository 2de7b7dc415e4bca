"""Where MLflow is, by this machine's settings: what a search takes, and where a replay goes without being told."""

import os
from pathlib import Path


def server_uri(chosen: str | None) -> str | None:
    """Return the MLflow server's address: the chosen one, or that of the environment, as MLflow's own commands do."""
    return chosen or os.environ.get("MLFLOW_TRACKING_URI") or None


def local_uri(runs_dir: Path) -> str:
    """Return the address of the SQLite in a runs folder (absolute, whoever opens it)."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def local_artifacts(runs_dir: Path) -> str:
    """Return where a local MLflow keeps artifacts."""
    return (runs_dir.resolve() / "mlflow-artifacts").as_uri()


def places_of(run_dir: Path) -> list[tuple[str, str | None]]:
    """Return where events of a run may go on this machine, the first by default: MLflow's address, and its artifacts'.

    A server decides itself where it keeps artifacts.
    """
    runs_dir = run_dir.resolve().parent
    here: list[tuple[str, str | None]] = [(local_uri(runs_dir), local_artifacts(runs_dir))]
    return here if (server := server_uri(None)) is None else [(server, None), *here]
