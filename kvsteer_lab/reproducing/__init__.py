"""The notebooks on another model: run, kept, shown on a page."""

from .chapters import Chapter, find_chapters
from .parameters import read_parameters
from .reproduction import Reproduction, reproduce
from .running import Record

__all__ = ["Chapter", "Record", "Reproduction", "find_chapters", "read_parameters", "reproduce"]
