"""`podpair`, the command line tool, and `podpair-operator`, the process in the cluster."""
