//! Part of the pod's network.
