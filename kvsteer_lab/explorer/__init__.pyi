from .explorer import Explorer as Explorer
from .opening import explore as explore
from .state import ExplorerState as ExplorerState
