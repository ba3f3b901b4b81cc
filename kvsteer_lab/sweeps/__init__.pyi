from .clusters import LocalProcesses as LocalProcesses
from .clusters import RayCluster as RayCluster
from .clusters import Slurm as Slurm
from .plan import SweepPlan as SweepPlan
from .sweeping import results_table as results_table
from .sweeping import sweep as sweep
from .units import Unit as Unit
