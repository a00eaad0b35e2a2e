//! storaged

fn main() {}
