from .methods import ActivationSearch as ActivationSearch
from .methods import CacheSearch as CacheSearch
from .methods import Search as Search
from .methods import SteeringSearch as SteeringSearch
from .search import tune as tune
from .tuning import Tuning as Tuning
