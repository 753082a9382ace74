"""Device meshes, processes, compiled programs, huge pages."""
