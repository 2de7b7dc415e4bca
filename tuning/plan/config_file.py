"""A ``--config`` file: the part of YAML that a plan needs, a mapping from names to single values and short lists."""

import os
import stat
from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 1_000_000  # a saved plan has 2,000


class PlanLoader(yaml.SafeLoader):
    """Safe YAML without aliases, which can make gigabytes of nine lines, and without keys given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias before it is followed."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases (*name) are not read; write the value out",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a second value for a key; plain YAML keeps the last in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice; give it once", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_config(path: str) -> dict[str, Any]:
    """Read names and values; which are known, and what they may be, ``SearchPlan`` says.

    Raises:
        ValueError: Names the file, why it cannot be read, and what would be right.
    """
    values = _parsed(path, _text(path))
    if values is None:
        raise ValueError(f"--config {path}: nothing in it; give a mapping from names to values, as 'num_samples: 20'")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"--config {path}: must be a mapping from names to values, as 'num_samples: 20'")
    return values


def _text(path: str) -> str:
    wanted = "give a YAML or JSON file of choices"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"not a file; {wanted}")
        if status.st_size > LARGEST_BYTES:
            raise ValueError(f"{status.st_size:,} bytes; such a file has at most {LARGEST_BYTES:,}")
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {path}: not UTF-8 at byte {error.start}; {wanted}") from error
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}; {wanted}") from error
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from error


def _parsed(path: str, text: str) -> Any:
    try:
        return yaml.load(text, PlanLoader)
    except RecursionError as error:
        raise ValueError(f"--config {path}: nested too deeply; give a mapping from names to values") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())[:300]
        raise ValueError(f"--config {path}: no YAML that can be read ({reason})") from error
