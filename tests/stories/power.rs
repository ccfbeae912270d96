//! The power goes while a host takes what its realm publishes: a machine of its own, with a kernel
//! and a disk, is cut off at random moments, and real Nix looks at what is left.

mod cuts;
mod flushes;
mod lab;
