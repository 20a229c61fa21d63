"""Transports: anything that moves bytes between the host and one board."""

from __future__ import annotations

from balance_hil.link.base import Link, clock_of
from balance_hil.link.fault_table import Fault, parse_fault, parse_faults
from balance_hil.link.faults import FaultyLink, Injection
from balance_hil.link.pipe_link import PipeEnds, open_pipes, open_socket_pair
from balance_hil.link.ports import SerialPort, list_serial_ports
from balance_hil.link.serial_link import open_link

__all__ = [
    "Fault",
    "FaultyLink",
    "Injection",
    "Link",
    "PipeEnds",
    "SerialPort",
    "clock_of",
    "list_serial_ports",
    "open_link",
    "open_pipes",
    "open_socket_pair",
    "parse_fault",
    "parse_faults",
]
