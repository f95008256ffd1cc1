//! Volumes of a pod: what the mounts of a container become in its guest, and who keeps them up to date.
