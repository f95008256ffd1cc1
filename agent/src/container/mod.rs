//! Runs the processes of containers.
