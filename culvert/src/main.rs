//! culvert

fn main() {}
