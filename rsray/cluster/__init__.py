"""From a cluster definition to a cluster that runs a job."""
