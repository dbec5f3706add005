# Sourced before mpirun: Open MPI refuses root and more ranks than cores unless told.
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1
# By default a rank is bound to one core, and its compute threads, loader and communication thread would share it.
export OMPI_MCA_hwloc_base_binding_policy=none
