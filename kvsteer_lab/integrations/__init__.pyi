from .harness_model import HarnessModel as HarnessModel
from .inspect import register_inspect as register_inspect
from .inspect_logs import read_inspect as read_inspect
from .lm_eval import register_lm_eval as register_lm_eval
from .lm_eval_logs import read_lm_eval as read_lm_eval
