"""An HTTP/1.1 server for small requests that need no task each; README.md tells how it works and what it allows."""
