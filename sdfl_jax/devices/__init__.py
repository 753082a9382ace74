"""Device meshes, processes, compiled programs, memory."""
