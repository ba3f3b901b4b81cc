from .nnsight_remote import Remote as Remote
