//! Placeholder front page.
mod ninep;
mod volume;

fn main() {}
