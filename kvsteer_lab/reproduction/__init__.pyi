from .chapters import Chapter as Chapter
from .chapters import find_chapters as find_chapters
from .parameters import read_parameters as read_parameters
from .reproduction import Reproduction as Reproduction
from .reproduction import reproduce as reproduce
from .running import Record as Record
