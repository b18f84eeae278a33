//! Bytes from a console, into the simulated BMCs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metalbot_sim::bmcs::fuzz::any_bytes(data));
