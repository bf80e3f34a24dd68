"""Who may connect: tokens (JWT) and where their keys come from, resume tokens, origins."""
