"""Finds, in source text, what is used of Ray, Optuna, PEFT and MLflow without their promise."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("strategies", "trainables", "tuning", "analysis", "benchmarks", "tests/fakes")
LIBRARIES = ("ray", "optuna", "peft", "mlflow")
PROMISED_MODULES = {
    "ray", "ray.exceptions", "ray.tune", "ray.tune.error", "ray.tune.logger", "ray.tune.schedulers", "ray.tune.search",
    "ray.util.metrics", "ray.util.placement_group", "ray.util.scheduling_strategies",
    "optuna", "optuna.storages.journal", "optuna.trial",
    "peft", "peft.tuners.lora",
    "mlflow", "mlflow.entities", "mlflow.exceptions",
}  # fmt: skip
"""Modules of the libraries' documentation; other paths are their own affair, however public they look."""
PROMISED_TEXTS = {
    "RAY_AIR_NEW_OUTPUT", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_SIGINT_HANDLER", "TUNE_GLOBAL_CHECKPOINT_S",
    "TUNE_MAX_PENDING_TRIALS_PG",
    "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "mlflow.data.context", "mlflow.parentRunId",
}  # fmt: skip
"""Variables and tags of their documentation."""
TEXT = re.compile(r"\b_?(?:RAY|TUNE|MLFLOW|OPTUNA|PEFT)_[A-Z_]+\b|^mlflow\.[\w.]+")
PROMISED_ATTRIBUTES = {"os._exit"}
ACCESSORS = {"getattr", "setattr", "hasattr", "delattr"}


def files():
    """Return the source files that are looked at, by their path from the root."""
    paths = [ROOT / "tune.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def in_text(source):
    """Return (line number, name) of what a source uses and should not."""
    nodes = list(ast.walk(ast.parse(source)))
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and _is_text(node.value)}
    return [(node.lineno, name) for node in nodes if id(node) not in docstrings for name in _uses(node, classes)]


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _uses(node, classes):
    """Return what one node uses and should not; private names of a source's own classes are its own affair."""
    match node:
        case ast.Import(names):
            return [alias.name for alias in names if not _is_promised(alias.name)]
        case ast.ImportFrom(module, names, level=0):
            return [f"{module}.{alias.name}" for alias in names if not _is_promised(module, alias.name)]
        case ast.Attribute(value, attr) if is_private(attr) and not _is_own(value, classes):
            return {ast.unparse(node)} - PROMISED_ATTRIBUTES
        case ast.Call(ast.Name(function), [one, ast.Constant(str(name)), *_]) if function in ACCESSORS:
            return [ast.unparse(node)] if is_private(name) and not _is_own(one, classes) else []
        case ast.keyword(arg=str(name)) if is_private(name):
            return [name]
        case ast.Constant(str(text)):
            return [name for name in TEXT.findall(text) if name not in PROMISED_TEXTS]
    return []


def _is_promised(module, name=""):
    if module.partition(".")[0] not in LIBRARIES:
        return True
    return (module in PROMISED_MODULES or f"{module}.{name}" in PROMISED_MODULES) and not is_private(name)


def _is_own(value, classes=()):
    """Return True if an attribute is of an object that is asked for its own, as ``self`` is."""
    match value:
        case ast.Name(name):
            return name in {"self", "cls", *classes}
        case ast.Call(ast.Name("super")):
            return True
    return False


def heirs(path, source):
    """Return the classes of a file that have a class of the libraries among their bases; it is imported for that."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node.name for node in nodes if isinstance(node, ast.ClassDef) and node.bases]
    if not names or not any(map(_is_import_of_library, nodes)):
        return []
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return [one for name in names if inspect.isclass(one := getattr(module, name, None)) and _bases(one)]


def _is_import_of_library(node):
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(module.partition(".")[0] in LIBRARIES for module in modules)


def _bases(one):
    return [base for base in one.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]


def in_class(one):
    """Return the private names that a class shares with its bases of the libraries: used, or overridden unawares."""
    bases = _bases(one)
    theirs = set().union(*map(_names, bases))
    ours = set().union(*(_names(base) for base in one.__mro__ if base not in bases and base.__module__ != "builtins"))
    return sorted(theirs & ours)


def _names(one):
    """Return the private names that a class defines, or reads or sets of itself."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one)))))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_own(node.value)}
    return set(filter(is_private, names))
