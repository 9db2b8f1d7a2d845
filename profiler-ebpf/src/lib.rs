//! What the BPF programs and the daemon share.
#![no_std]
