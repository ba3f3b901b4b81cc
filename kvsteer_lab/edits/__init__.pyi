from .cache import CacheDelta as CacheDelta
from .cache import apply as apply
from .hiding import HiddenSlot as HiddenSlot
from .residual import ResidualDelta as ResidualDelta
