//! Layers, honest and hostile, unpacked into real directories. Needs root, as unpacking does.

mod archives;
mod faithful;
mod hostile;
mod limits;
mod whole;
