from . import outcomes as outcomes
from . import tuning as tuning
