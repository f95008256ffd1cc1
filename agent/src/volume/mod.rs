//! Pod-level volumes.
