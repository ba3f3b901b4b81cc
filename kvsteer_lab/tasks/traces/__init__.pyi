from .reading import Trace as Trace
from .reading import Traces as Traces
from .task import TracedTask as TracedTask
from .task import TracesTask as TracesTask
from .task import with_traces as with_traces
from .writing import write_traces as write_traces
