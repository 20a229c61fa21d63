"""Identification of the wheel servos: ``record`` a step response, ``read_log``, ``identify`` the motor's parameters."""

from balance_hil.envs.balance.identify.fit import Identification, Parameter, identify
from balance_hil.envs.balance.identify.log import COLUMNS, Run, read_log, write_log
from balance_hil.envs.balance.identify.record import record

__all__ = ["COLUMNS", "Identification", "Parameter", "Run", "identify", "read_log", "record", "write_log"]
