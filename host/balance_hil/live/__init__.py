"""The live page of a run, in a browser or in Foxglove. Its server is another process than the control loop."""

from __future__ import annotations

from balance_hil.live.feed import LivePage

__all__ = ["LivePage"]
