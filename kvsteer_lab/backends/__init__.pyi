from .llama_cpp import LlamaCpp as LlamaCpp
from .nnsight_remote import Remote as Remote
from .server import Server as Server
from .vllm import VLLM as VLLM
