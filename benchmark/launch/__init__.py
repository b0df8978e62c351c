"""A run as many processes: on the GPUs or cores of one machine, or as jobs of SLURM. The same files come out."""
