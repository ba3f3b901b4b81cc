from .replicating import Replication as Replication
from .replicating import replicate as replicate
from .sizes import Sizes as Sizes
