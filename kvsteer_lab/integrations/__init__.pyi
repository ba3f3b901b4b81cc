from .harness_model import HarnessModel as HarnessModel
from .lm_eval import register_lm_eval as register_lm_eval
from .lm_eval_logs import read_lm_eval as read_lm_eval
