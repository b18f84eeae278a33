//! Bytes from a BMC, into everything of the client that reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metalbot_ipmi::fuzz::any_bytes(data));
