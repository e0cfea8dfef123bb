"""What programs outside of effnets rely on: names, signatures, commands and options, as plain values.

`python -m tests.support.public_api` prints them; tests/assets/public_api.json holds those of version 0.1.0.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from typing import Any

import click

import effnets


def parameters(function: Any) -> dict[str, list[str]]:
    """Name → kind and default of each parameter."""
    return {
        name: [parameter.kind.name, "required" if parameter.default is parameter.empty else _plain(parameter.default)]
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _plain(default: Any) -> str:
    return re.sub(r" at 0x\w+", "", str(default))


def public_names() -> dict[str, Any]:
    """Name → signature; of a class, that of its construction, with its public members."""
    found: dict[str, Any] = {}
    for name in effnets.__all__:
        value = getattr(effnets, name)
        if not inspect.isclass(value):
            found[name] = {"parameters": parameters(value)}
        elif issubclass(value, Exception):
            found[name] = {"bases": [base.__name__ for base in value.__mro__ if base is not object]}
        else:
            members = sorted(member for member in vars(value) if not member.startswith("_"))
            found[name] = {"parameters": parameters(value), "members": members}
    return found


def commands() -> dict[str, Any]:
    """Command → its arguments and options, with what they take."""
    from effnets.cli import main

    context = click.Context(main)
    found: dict[str, Any] = {}
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found[name] = {
            str(parameter.name): {
                "options": sorted([*parameter.opts, *parameter.secondary_opts]),
                "required": parameter.required,
                "many": parameter.multiple or parameter.nargs != 1
                if isinstance(parameter, click.Option)
                else parameter.nargs != 1,
                "choices": list(parameter.type.choices) if isinstance(parameter.type, click.Choice) else None,
            }
            for parameter in command.params
        }
    return found


def snapshot() -> dict[str, Any]:
    return {"names": public_names(), "commands": commands()}


if __name__ == "__main__":
    importlib.import_module("torch")
    print(json.dumps(snapshot(), indent=1))
