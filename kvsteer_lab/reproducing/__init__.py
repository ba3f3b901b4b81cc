"""The notebooks on another model: run, kept, shown on a page."""

from .chapters import Chapter, find_chapters
from .reproduction import Reproduction, reproduce
from .running import Record

__all__ = ["Chapter", "Record", "Reproduction", "find_chapters", "reproduce"]
