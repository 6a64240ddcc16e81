"""
The version, in the one place that packaging and every way of loading the modules can read.
"""

from __future__ import annotations

VERSION = "0.1.0"
