//! wgd

fn main() {}
