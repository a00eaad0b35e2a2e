//! edge

fn main() {}
