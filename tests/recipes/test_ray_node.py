"""The ports of recipes/verl/ray_node.py and its words; tests/engines/verl/test_ray.py starts nodes."""

import importlib.util
import socket
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "recipes" / "verl" / "ray_node.py"


@pytest.fixture(scope="module")
def ray_node():
    spec = importlib.util.spec_from_file_location("ray_node", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_held_port_is_for_whoever_asks_for_it_as_ray_does_and_for_nobody_else(ray_node):
    with ray_node.hold_ports(3) as ports:
        assert len(set(ports)) == 3
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", ports[0]))
        with socket.socket() as ray:
            ray.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ray.bind(("127.0.0.1", ports[0]))
            ray.listen()
            with socket.create_connection(("127.0.0.1", ports[0]), timeout=10):
                pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports[1]))


def test_what_keeps_a_node_from_starting_is_said(ray_node, capfd):
    """Ray is not there, or does not know the option."""
    assert ray_node.main(["--no-such-option", "--", "true"]) == 1
    assert "ray_node.py: Ray did not start (exit status" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["true"], ["--num-cpus=1", "--"]])
def test_a_command_is_asked_for(ray_node, arguments, capsys):
    assert ray_node.main(arguments) == 2
    assert "name a command" in capsys.readouterr().err
