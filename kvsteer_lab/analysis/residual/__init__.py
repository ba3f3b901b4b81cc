"""What steering does to the residual stream: logit lens and patching."""
