//! Evidence of AMD processors: what is real, what was changed in one place, and what a simulated processor signed.

mod authorities;
mod case;
mod certificate_fields;
mod crossed;
mod mutations;
mod pinned;
mod report_fields;
mod resigned;
mod revocation;
mod synthetic;
mod vectors;
